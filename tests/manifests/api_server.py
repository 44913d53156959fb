"""An API server for kubectl: as strict about what it is given as a real one, with what makes Jobs complete.

It holds objects in memory. Like the real one it refuses an object in a namespace that is not there (404), one whose
fields its version's schemas do not have (400), and a change of a Job's template (422). Kubelet, controllers and the
registry are one function: a Job is Complete as soon as its pod could have run, and says in an event why not.
"""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import kubernetes_validate

from tests.manifests.checks import Pod, connects, restricted

VERSION = "1.35"
# plural, kind and whether it lies in a namespace, by group and version
KINDS = {
    "v1": [
        ("namespaces", "Namespace", False),
        ("configmaps", "ConfigMap", True),
        ("secrets", "Secret", True),
        ("serviceaccounts", "ServiceAccount", True),
        ("services", "Service", True),
        ("persistentvolumeclaims", "PersistentVolumeClaim", True),
    ],
    "batch/v1": [("jobs", "Job", True)],
    "apps/v1": [("statefulsets", "StatefulSet", True), ("deployments", "Deployment", True)],
    "networking.k8s.io/v1": [("networkpolicies", "NetworkPolicy", True)],
    "rbac.authorization.k8s.io/v1": [("roles", "Role", True), ("rolebindings", "RoleBinding", True)],
}
FIXED = ("template", "selector", "completions", "podFailurePolicy")  # of a Job, once it is made


class ApiServer(ThreadingHTTPServer):
    """An address, the objects by (plural, namespace, name), and the requests as they came (method, path)."""

    daemon_threads = True

    def __init__(self, pulls):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pulls, self.objects, self.requests, self.lock = pulls, {}, [], threading.RLock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def made(self, kind, namespace):
        return [item for (plural, where, _), item in self.objects.items() if (plural, where) == (kind, namespace)]

    def put(self, plural, item):
        meta = item["metadata"]
        meta.setdefault("uid", f"uid-{len(self.objects)}")
        meta.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        meta["resourceVersion"] = str(len(self.requests))
        self.objects[plural, meta.get("namespace", ""), meta["name"]] = item
        return item

    # what runs on the nodes -------------------------------------------------------------------------------------------

    def why_not(self, namespace, spec, labels, name):
        """What keeps a pod from running, a sentence each."""
        found = [f"violates PodSecurity restricted: {what}" for what in restricted(spec)]
        account = self.objects.get(("serviceaccounts", namespace, spec.get("serviceAccountName", "default")))
        if account is None:
            found.append(f"no service account {spec.get('serviceAccountName')}")
        for volume in spec.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and ("persistentvolumeclaims", namespace, claim) not in self.objects:
                found.append(f"no claim {claim}")
        pulls = spec.get("imagePullSecrets") or (account or {}).get("imagePullSecrets", [])
        keys = [self.objects.get(("secrets", namespace, item["name"])) for item in pulls]
        types = {key["type"] for key in keys if key}
        for container in spec["containers"]:
            found += [self._environment(namespace, item) for item in container.get("env", [])]
            if not self.pulls(container["image"], "kubernetes.io/dockerconfigjson" in types):
                found.append(f"ImagePullBackOff: {container['image']}")
            found += self._store(namespace, container, Pod(name, labels, namespace, spec))
        return [what for what in found if what]

    def _environment(self, namespace, item):
        source = item.get("valueFrom", {})
        for field, plural in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
            if (wanted := source.get(field)) and not wanted.get("optional"):
                held = self.objects.get((plural, namespace, wanted["name"]), {}).get("data", {})
                if wanted["key"] not in held:
                    return f"CreateContainerConfigError: no {wanted['name']}/{wanted['key']}"
        return ""

    def _store(self, namespace, container, pod):
        """Whether the store of `motion-enhancer-store` answers, where it is a Service of this namespace."""
        if "components.store.bootstrap" not in container.get("command", []):
            return []
        secret = self.objects.get(("secrets", namespace, "motion-enhancer-store"))
        host = urlparse(base64.b64decode(secret["data"]["endpoint"]).decode()).hostname if secret else ""
        service = self.objects.get(("services", namespace, host))
        if service is None:
            return [] if host and "." in host else [f"no host {host!r}"]
        selector, rules = service["spec"]["selector"], self.made("networkpolicies", namespace)
        for item in self.made("statefulsets", namespace):
            template = item["spec"]["template"]
            if selector.items() <= template["metadata"]["labels"].items():
                server = Pod(host, template["metadata"]["labels"], namespace, template["spec"])
                closed = [] if connects(pod, server, rules, 9000) else ["a NetworkPolicy closes the store"]
                return self.why_not(namespace, template["spec"], template["metadata"]["labels"], host) + closed
        return [f"nothing behind service {host}"]

    def shown(self, plural, item):
        """An object with its status as the controllers would have written it by now."""
        if plural != "jobs":
            return item
        template, meta = item["spec"]["template"], item["metadata"]
        reasons = self.why_not(meta["namespace"], template["spec"], template["metadata"]["labels"], meta["name"])
        done = {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        return {**item, "status": {"events": reasons} if reasons else {"succeeded": 1, "conditions": [done]}}

    # the API ----------------------------------------------------------------------------------------------------------

    def answer(self, method, url, body):
        parts = [part for part in url.path.split("/") if part]
        if not parts or parts[0] not in ("api", "apis"):
            return self._about(parts)
        if parts in (["api"], ["apis"]):
            return 200, _groups(parts[0])
        version = parts[1] if parts[0] == "api" else "/".join(parts[1:3])
        if version not in KINDS:
            return _status(404, "NotFound", "the server could not find the requested resource")
        rest = parts[2 if parts[0] == "api" else 3 :]
        if not rest:
            return 200, _resources(version)
        namespace, rest = (rest[1], rest[2:]) if rest[0] == "namespaces" and len(rest) > 2 else ("", rest)
        (kind,) = [kind for plural, kind, _ in KINDS[version] if plural == rest[0]]
        return self._resource(method, (version, kind, rest[0]), namespace, rest[1:], parse_qs(url.query), body)

    def _about(self, parts):
        if parts == ["version"]:
            major, minor = VERSION.split(".")
            return 200, {"major": major, "minor": minor, "gitVersion": f"v{VERSION}.0", "platform": "linux/amd64"}
        if parts == ["openapi", "v3"]:
            paths = [("api" if version == "v1" else "apis") + f"/{version}" for version in KINDS]
            return 200, {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}
        if parts[:2] == ["openapi", "v3"]:
            return 200, _openapi("/".join(parts[2:]))
        return _status(404, "NotFound", f"no {'/'.join(parts)}")

    def _resource(self, method, known, namespace, rest, query, body):
        version, kind, plural = known
        if method == "POST":
            return self._create(known, namespace, body)
        if not rest:
            selected = [item for item in self.made(plural, namespace) if _selected(item, query)]
            listed = [self.shown(plural, item) for item in selected]
            return 200, {"kind": f"{kind}List", "apiVersion": version, "metadata": {}, "items": listed}
        item = self.objects.get((plural, namespace, rest[0]))
        if item is None:
            return _status(404, "NotFound", f'{plural} "{rest[0]}" not found')
        if method == "GET":
            return 200, self.shown(plural, item)
        if method == "DELETE":
            return 200, self.objects.pop((plural, namespace, rest[0]))
        merged = _merged(item, body)
        if kind == "Job" and any(merged["spec"].get(field) != item["spec"].get(field) for field in FIXED):
            return _status(422, "Invalid", f'Job.batch "{rest[0]}" is invalid: spec.template: field is immutable')
        return self._checked(plural, merged, 200)

    def _create(self, known, namespace, item):
        version, kind, plural = known
        name = item["metadata"]["name"]
        if (item.get("apiVersion"), item.get("kind")) != (version, kind):
            return _status(400, "BadRequest", f"{item.get('kind')} at the address of {kind}")
        if namespace and ("namespaces", "", namespace) not in self.objects:
            return _status(404, "NotFound", f'namespaces "{namespace}" not found')
        if item["metadata"].get("namespace", namespace) != namespace:
            return _status(400, "BadRequest", "the namespace of the object does not match that of the request")
        if (plural, namespace, name) in self.objects:
            return _status(409, "AlreadyExists", f'{plural} "{name}" already exists')
        if kind == "Secret":
            item.setdefault("type", "Opaque")
        return self._checked(plural, item, 201)

    def _checked(self, plural, item, code):
        try:
            kubernetes_validate.validate(item, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            return _status(400, "BadRequest", f"{item['kind']} {item['metadata']['name']}: {error.message}")
        return code, self.put(plural, item)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlparse(self.path)
        with self.server.lock:
            self.server.requests.append((self.command, self.path))
            status, value = self.server.answer(self.command, url, json.loads(body) if body else None)
        data = json.dumps(value).encode()
        if "watch" in parse_qs(url.query):  # nothing will ever change that no request changes
            data = b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = handle_any


@contextmanager
def running(pulls=lambda image, key: True):
    """An API server without an object; `pulls(image, key)` is the registry, `key` whether the pod has a pull secret."""
    server = ApiServer(pulls)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def _status(code, reason, message):
    return code, {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def _groups(root):
    if root == "api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    each = [(version.split("/")[0], version) for version in KINDS if "/" in version]
    versions = [(name, {"groupVersion": version, "version": version.split("/")[1]}) for name, version in each]
    groups = [{"name": name, "versions": [one], "preferredVersion": one} for name, one in versions]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _resources(version):
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    found = [
        {"name": plural, "singularName": kind.lower(), "namespaced": inside, "kind": kind, "verbs": verbs}
        for plural, kind, inside in KINDS[version]
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": found}


def _openapi(path):
    """What kubectl looks for: that the server checks the fields itself."""
    version = path.split("/", 1)[1]
    group = version.split("/")[0] if "/" in version else ""
    paths = {
        f"/{path}/{'namespaces/{namespace}/' if inside else ''}{plural}/{{name}}": {
            "patch": {
                "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                "x-kubernetes-group-version-kind": {"group": group, "version": version.split("/")[-1], "kind": kind},
            }
        }
        for plural, kind, inside in KINDS[version]
    }
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": VERSION}, "paths": paths}


def _selected(item, query):
    """Whether a list takes an object, by `fieldSelector=metadata.name=…` and `labelSelector=key=value`."""
    for part in ",".join(query.get("fieldSelector", [])).split(","):
        if part and item["metadata"]["name"] != part.removeprefix("metadata.name="):
            return False
    labels = item["metadata"].get("labels", {})
    wanted = [part.split("=", 1) for part in ",".join(query.get("labelSelector", [])).split(",") if part]
    return all(labels.get(key) == value for key, value in wanted)


def _merged(old, patch):
    """A JSON merge patch; lists are replaced, which is what a strategic patch of none of our lists differs from."""
    if not isinstance(patch, dict) or not isinstance(old, dict):
        return patch
    kept = {key: value for key, value in old.items() if key not in patch}
    given = {key: _merged(old.get(key), value) for key, value in patch.items() if value is not None}
    return kept | {key: value for key, value in given.items() if not key.startswith("$")}
