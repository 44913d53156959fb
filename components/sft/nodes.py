"""Fine-tuning on several nodes: create a Kubeflow Trainer TrainJob, wait for it, remove it.

The compiled pipeline puts the manifest into `SFT_TRAINJOB`; here it gets its name, its owner (this pod, so that it goes
with the pod) and the job file, which lies on a volume that all nodes mount. The Kubernetes API is called over plain
HTTPS, as images carry no client of it.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import ssl
import time
from copy import deepcopy
from pathlib import Path

from components.core.errors import ParameterError, TryAgainError
from components.core.records import Json

log = logging.getLogger(__name__)
MANIFEST = "SFT_TRAINJOB"  # the environment variable that holds the manifest
PAGE = "docs/cluster.md"
_METHODS = {"create": "POST", "read": "GET", "delete": "DELETE"}
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
POLL_S = 15.0
PATIENCE = 40  # polls in a row that may fail: 10 minutes without an API server
SLACK_S = 600.0  # the pod's own deadline, which counts from before its image was pulled, would end this without a word


def named(manifest: Json, name: str, job_file: Path) -> Json:
    """Return the manifest of this training; its owner is this pod, if the environment names one."""
    made = deepcopy(manifest)
    made["metadata"]["name"] = name
    if "POD_UID" in os.environ:
        owner = {"apiVersion": "v1", "kind": "Pod", "name": os.environ["POD_NAME"], "uid": os.environ["POD_UID"]}
        made["metadata"]["ownerReferences"] = [owner]
    made["spec"]["trainer"]["args"].append(str(job_file))
    return made


def train_on_nodes(manifest: Json, job_file: Path, name: str, jobs: TrainJobs | None = None) -> int:
    """Run the TrainJob to its end and return 0, or 1 where it failed: it then stays for its logs until the next try.

    Raises:
        ParameterError: the API server refuses it: no rights, no Trainer, or a manifest that this Trainer does not know.
        TryAgainError: no API server for 10 minutes, or the try's time is up, waiting in a queue included; the TrainJob
            is removed, saved states stay.
    """
    deadline = float(manifest["spec"]["activeDeadlineSeconds"])
    until = time.monotonic() + max(deadline - SLACK_S, deadline / 2)
    jobs = jobs or TrainJobs.of_this_pod()
    jobs.remove(name)  # what an earlier try left: two trainings of the same work would hold twice the nodes
    log.info("TrainJob %s: %d nodes", name, manifest["spec"]["trainer"]["numNodes"])
    jobs.create(named(manifest, name, job_file))
    try:
        ended = jobs.wait(name, until)
    except BaseException:
        jobs.remove(name, wait=False)
        raise
    if ended["type"] == "Complete":
        jobs.remove(name, wait=False)
        return 0
    log.error("TrainJob %s: %s %s", name, ended.get("reason", ""), ended.get("message", ""))
    return 1


class TrainJobs:
    """The TrainJobs of one namespace, by the Kubernetes API as a service account sees it."""

    def __init__(self, host: str, port: int, account: Path) -> None:
        self.host, self.port, self.account = host, port, account
        self.namespace = (account / "namespace").read_text().strip()
        self.path = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{self.namespace}/trainjobs"
        self.context = ssl.create_default_context(cafile=str(account / "ca.crt"))

    @classmethod
    def of_this_pod(cls) -> TrainJobs:
        """Return those behind the API server that a pod's environment names; a ParameterError outside of a pod."""
        try:
            return cls(os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"]), ACCOUNT)
        except (KeyError, OSError) as error:
            remedy = "this pipeline was compiled for several nodes of a cluster"
            raise ParameterError(f"no Kubernetes API here ({error})", source=MANIFEST, remedy=remedy) from error

    def create(self, manifest: Json) -> None:
        """Create one."""
        self._call("create", body=manifest)

    def remove(self, name: str, *, wait: bool = True) -> None:
        """Delete one, if there is one, with its pods; `wait` until it is gone."""
        status, _ = self._call("delete", name, {"propagationPolicy": "Foreground"}, missing=True)
        while wait and status != 404:
            time.sleep(min(POLL_S, 2.0))
            status, _ = self._call("read", name, missing=True)

    def wait(self, name: str, until: float) -> Json:
        """Return the condition that ends a TrainJob, `Complete` or `Failed`; `until` is a time of `monotonic`."""
        shown, missed = "not started", 0
        while True:
            try:
                _, answer = self._call("read", name)
            except TryAgainError:
                missed += 1
                if missed >= PATIENCE:
                    raise
            else:
                missed, status = 0, answer.get("status", {})
                true = {item["type"]: item for item in status.get("conditions", []) if item["status"] == "True"}
                if ended := true.get("Complete") or true.get("Failed"):
                    return dict(ended)
                counts = [
                    (job["name"], job.get("active", 0), job.get("ready", 0)) for job in status.get("jobsStatus", [])
                ]
                seen = ", ".join(f"{job}: {active} active, {ready} ready" for job, active, ready in counts)
                seen += " (suspended: waiting for its queue)" if "Suspended" in true else ""
                if (seen or "created") != shown:
                    shown = seen or "created"
                    log.info("TrainJob %s: %s", name, shown)
            if time.monotonic() > until:
                problem, remedy = f"the TrainJob's time is up ({shown})", "run again: it resumes; or allow more"
                raise TryAgainError(problem, source="compile --timeout", remedy=remedy)
            time.sleep(POLL_S)

    def _call(self, verb: str, name: str = "", body: Json | None = None, missing: bool = False) -> tuple[int, Json]:
        """Return status and answer of a request; a refusal is a ParameterError, no answer a TryAgainError."""
        token = (self.account / "token").read_text().strip()  # it is renewed while this runs
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Accept": "application/json"}
        method, path = _METHODS[verb], f"{self.path}/{name}".rstrip("/")
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=60, context=self.context)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            reply = connection.getresponse()
            status, data = reply.status, reply.read()
        except (OSError, http.client.HTTPException) as error:
            source = f"{self.host}:{self.port}"
            raise TryAgainError(f"no Kubernetes API: {error}", source=source, remedy="run again") from error
        finally:
            connection.close()
        if status >= 500 or status == 429:
            raise TryAgainError(f"the Kubernetes API answered {status}", source=f"{method} {path}", remedy="run again")
        try:
            found = json.loads(data)
        except ValueError:  # a server that knows no such path answers in plain text
            found = {"message": data.decode(errors="replace").strip()}
        answer: Json = found if isinstance(found, dict) else {}
        if status < 300 or (missing and status == 404):
            return status, answer
        gone, old = "somebody deleted the TrainJob: run again, it resumes", "install Kubeflow Trainer 2.2 or newer"
        remedy = {
            401: "give the run a service account with a valid token",
            403: f"give the run's service account the role of {PAGE}",
            404: gone if verb == "read" else old,
        }.get(status, f"see {PAGE} for the versions that know this manifest")
        problem = f"cannot {verb} a TrainJob: {status} {answer.get('message', '')}"
        raise ParameterError(problem, source=f"namespace {self.namespace}", remedy=remedy)
