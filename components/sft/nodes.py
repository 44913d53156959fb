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

from components.core.errors import MotionEnhancerError, ParameterError, TryAgainError
from components.core.records import Json

log = logging.getLogger(__name__)
MANIFEST = "SFT_TRAINJOB"  # the environment variable that holds the manifest
PAGE = "docs/cluster.md"
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


def train_on_nodes(manifest: Json, job_file: Path, name: str, api: Api | None = None) -> int:
    """Run the TrainJob to its end and return 0, or 1 where it failed: it then stays for its logs until the next try.

    Raises:
        ParameterError: the API server refuses it: no rights, no Trainer, or a manifest that this Trainer does not know.
        TryAgainError: no API server for 10 minutes, or the try's time is up, waiting in a queue included; the TrainJob
            is removed, saved states stay.
    """
    deadline = float(manifest["spec"]["activeDeadlineSeconds"])
    until = time.monotonic() + max(deadline - SLACK_S, deadline / 2)
    jobs = TrainJobs(api or Api.of_this_pod())
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


class Api:
    """The Kubernetes API of one namespace, as a service account sees it."""

    def __init__(self, host: str, port: int, account: Path) -> None:
        self.host, self.port, self.account = host, port, account
        self.namespace = (account / "namespace").read_text().strip()
        self.context = ssl.create_default_context(cafile=str(account / "ca.crt"))

    @classmethod
    def of_this_pod(cls) -> Api:
        """Return the API server that a pod's environment names.

        Raises:
            ParameterError: this is no pod, or it has no service account's token.
        """
        try:
            return cls(os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"]), ACCOUNT)
        except (KeyError, OSError) as error:
            problem = f"no Kubernetes API here ({error})"
            raise ParameterError(
                problem, source=MANIFEST, remedy="this pipeline was compiled for several nodes of a cluster"
            ) from error

    def call(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        """Return status and answer of a request.

        Raises:
            TryAgainError: no answer, or a server's error.
        """
        token = (self.account / "token").read_text().strip()  # it is renewed while this runs
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Accept": "application/json"}
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=60, context=self.context)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            status, data = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise TryAgainError(
                f"no Kubernetes API: {error}", source=f"{self.host}:{self.port}", remedy="run again"
            ) from error
        finally:
            connection.close()
        if status >= 500 or status == 429:
            raise TryAgainError(f"the Kubernetes API answered {status}", source=f"{method} {path}", remedy="run again")
        return status, _parsed(data)


def _parsed(data: bytes) -> Json:
    """Return an answer's JSON; a server that knows no such path answers in plain text."""
    try:
        found = json.loads(data)
    except ValueError:
        found = {"message": data.decode(errors="replace").strip()}
    return found if isinstance(found, dict) else {}


class TrainJobs:
    """TrainJobs of a namespace."""

    def __init__(self, api: Api) -> None:
        self.api, self.path = api, f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{api.namespace}/trainjobs"

    def create(self, manifest: Json) -> None:
        """Create one."""
        status, answer = self.api.call("POST", self.path, manifest)
        if status not in (200, 201):
            raise self._refused("create", status, answer)

    def remove(self, name: str, *, wait: bool = True) -> None:
        """Delete one, if there is one, with its pods; `wait` until it is gone."""
        options: Json = {"propagationPolicy": "Foreground"}
        status, answer = self.api.call("DELETE", f"{self.path}/{name}", options)
        if status not in (200, 202, 404):
            raise self._refused("delete", status, answer)
        while wait and status != 404:
            time.sleep(min(POLL_S, 2.0))
            status, answer = self.api.call("GET", f"{self.path}/{name}")

    def wait(self, name: str, until: float) -> Json:
        """Return the condition that ends a TrainJob, `Complete` or `Failed`; `until` is a time of `monotonic`."""
        shown, missed = "", 0
        while True:
            try:
                status, answer = self.api.call("GET", f"{self.path}/{name}")
                missed = 0
            except TryAgainError:
                missed += 1
                if missed >= PATIENCE:
                    raise
                status, answer = 0, {}
            if status >= 400:
                raise self._refused("read", status, answer)
            for condition in answer.get("status", {}).get("conditions", []):
                if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
                    return dict(condition)
            if status and (seen := _progress(answer)) != shown:
                shown = seen
                log.info("TrainJob %s: %s", name, shown)
            if time.monotonic() > until:
                remedy = "run again: it resumes; or allow more"
                raise TryAgainError(
                    f"the TrainJob's time is up ({shown or 'not started'})", source="compile --timeout", remedy=remedy
                )
            time.sleep(POLL_S)

    def _refused(self, verb: str, status: int, answer: Json) -> MotionEnhancerError:
        remedy = {
            401: "give the run a service account with a valid token",
            403: f"give the run's service account the role of {PAGE}",
            404: "somebody deleted the TrainJob: run again, it resumes"
            if verb == "read"
            else "install Kubeflow Trainer 2.2 or newer",
        }.get(status, f"see {PAGE} for the versions that know this manifest")
        problem = f"cannot {verb} a TrainJob: {status} {answer.get('message', '')}"
        return ParameterError(problem, source=f"namespace {self.api.namespace}", remedy=remedy)


def _progress(answer: Json) -> str:
    """Return where a TrainJob stands, in words."""
    status = answer.get("status", {})
    jobs = ", ".join(
        f"{job['name']}: {job.get('active', 0)} active, {job.get('ready', 0)} ready"
        for job in status.get("jobsStatus", [])
    )
    suspended = any(item["type"] == "Suspended" and item["status"] == "True" for item in status.get("conditions", []))
    return jobs + (" (suspended: waiting for its queue)" if suspended else "") or "created"
