"""Fine-tuning on several nodes: create a Kubeflow Trainer TrainJob, wait for it, remove it.

The compiled pipeline puts the manifest into `SFT_TRAINJOB`; here it gets its name, its owner (this pod, so that it goes
with the pod) and the job file, which lies on a volume that all nodes mount. The Kubernetes client is imported where a
TrainJob is launched and nowhere else: a training on one node needs none of it.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from components.core.errors import ParameterError, TryAgainError
from components.core.records import Json
from components.store.credentials import pod_has_role
from components.store.settings import settings

log = logging.getLogger(__name__)
MANIFEST = "SFT_TRAINJOB"  # the environment variable that holds the manifest
LAUNCH = "motion-enhancer/launch"  # annotation: the launch that made a TrainJob
KIND = {"group": "trainer.kubeflow.org", "version": "v1alpha1", "plural": "trainjobs"}
PAGE = "docs/cluster.md"
POLL_S = 15.0
PATIENCE = 40  # polls in a row that may fail: 10 minutes without an API server
TIMEOUT_S = 20  # of one request; after SIGTERM a pod has 30 seconds (an integer, or the client ignores it)
SLACK_S = 600.0  # the pod's own deadline, which counts from before its image was pulled, would end this without a word
_REMEDIES = {
    401: "give the run a service account with a valid token",
    403: f"give the run's service account the role of {PAGE}",
    404: "install Kubeflow Trainer 2.2 or newer",
    409: "another run trains the same at this moment: wait for its end",
}


class NoAnswer(TryAgainError):
    """The API server cannot be reached, or it cannot answer for now."""


def named(manifest: Json, name: str, job_file: Path) -> Json:
    """Return the manifest of this launch; its owner is this pod, if the environment names one."""
    made = deepcopy(manifest)
    made["metadata"] |= {"name": name, "annotations": {LAUNCH: uuid.uuid4().hex}}
    if "POD_UID" in os.environ:
        owner = {"apiVersion": "v1", "kind": "Pod", "name": os.environ["POD_NAME"], "uid": os.environ["POD_UID"]}
        made["metadata"]["ownerReferences"] = [owner]
    if pod_has_role(settings()):  # the workers ask the store in the same name
        (patch,) = made["spec"]["runtimePatches"]
        (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        job["template"]["spec"]["template"]["spec"]["serviceAccountName"] = os.environ["POD_SERVICE_ACCOUNT"]
    made["spec"]["trainer"]["args"].append(str(job_file))
    return made


def train_on_nodes(manifest: Json, job_file: Path, name: str) -> int:
    """Run the TrainJob to its end and return 0, or 1 where it failed: it then stays for its logs until the next try.

    An exception on the way, also one that the handler of a signal raises, deletes the TrainJob, which ends its workers,
    and passes through.

    Raises:
        ParameterError: the API server refuses it: no rights, no Trainer, or a manifest that this Trainer does not know.
        TryAgainError: no API server for 10 minutes, or the try's time is up, waiting in a queue included; saved states
            stay.
    """
    deadline = float(manifest["spec"]["activeDeadlineSeconds"])
    until = time.monotonic() + max(deadline - SLACK_S, deadline / 2)
    job = TrainJob(named(manifest, name, job_file))
    job.remove_earlier(until)
    log.info("TrainJob %s: %d nodes", name, manifest["spec"]["trainer"]["numNodes"])
    try:
        job.create()
        ended = job.wait(until)
    except BaseException:
        job.release()
        raise
    if ended["type"] == "Failed":
        log.error("TrainJob %s: %s %s", name, ended.get("reason", ""), ended.get("message", ""))
        return 1
    job.release()
    return 0


class TrainJob:
    """A TrainJob in this pod's namespace, through the official Kubernetes client and the pod's service account."""

    def __init__(self, manifest: Json) -> None:
        from kubernetes import client, config
        from kubernetes.config import incluster_config

        settings = client.Configuration()
        token = Path(incluster_config.SERVICE_TOKEN_FILENAME)
        try:
            config.load_incluster_config(settings)  # it also reads the token anew every minute
            self.namespace = token.with_name("namespace").read_text().strip()
        except (config.ConfigException, OSError) as error:
            remedy = "this pipeline was compiled for several nodes of a cluster"
            raise ParameterError(f"no Kubernetes API here ({error})", source=MANIFEST, remedy=remedy) from error
        settings.retries = False  # the next poll is the retry
        self.api, self.host = client.CustomObjectsApi(client.ApiClient(settings)), settings.host
        self.manifest, self.name = manifest, manifest["metadata"]["name"]

    def remove_earlier(self, until: float) -> None:
        """Delete what an earlier try left under this name and wait until it is gone with its pods.

        Two trainings of the same work would hold twice the nodes.
        """
        if self._request("delete", body={"propagationPolicy": "Foreground"}) is None:
            return
        for found in self._polls(until, min(POLL_S, 2.0)):
            if found is None:
                return
        remedy = f"kubectl describe trainjob {self.name} names what holds it; then run again"
        raise TryAgainError("an earlier try's TrainJob does not go away", source=self._where(), remedy=remedy)

    def create(self) -> None:
        """Create it."""
        self._request("create", body=self.manifest)

    def wait(self, until: float) -> Json:
        """Return the condition that ends it, `Complete` or `Failed`; `until` is a time of `monotonic`."""
        shown = "not started"
        for found in self._polls(until, POLL_S):
            if (own := self._own(found)) is None:
                problem, remedy = "the TrainJob is gone", "somebody deleted or replaced it: run again, it resumes"
                raise ParameterError(problem, source=self._where(), remedy=remedy)
            status = own.get("status", {})
            true = {item["type"]: item for item in status.get("conditions", []) if item["status"] == "True"}
            if ended := true.get("Complete") or true.get("Failed"):
                return dict(ended)
            counts = [(job["name"], job.get("active", 0), job.get("ready", 0)) for job in status.get("jobsStatus", [])]
            seen = ", ".join(f"{job}: {active} active, {ready} ready" for job, active, ready in counts)
            seen += " (suspended: waiting for its queue)" if "Suspended" in true else ""
            if (seen or "created") != shown:
                shown = seen or "created"
                log.info("TrainJob %s: %s", self.name, shown)
        problem, remedy = f"the TrainJob's time is up ({shown})", "run again: it resumes; or allow more"
        raise TryAgainError(problem, source="compile --timeout", remedy=remedy)

    def release(self) -> None:
        """Delete it, if it is there and this launch made it; a failure is logged, as the launcher has its own end."""
        try:
            if (own := self._own(self._request("get"))) is not None:
                only = {"uid": own["metadata"]["uid"]}
                self._request("delete", body={"propagationPolicy": "Foreground", "preconditions": only})
        except (NoAnswer, ParameterError) as error:
            log.error("TrainJob %s was not deleted and may hold its nodes: %s", self.name, error)

    def _own(self, found: Json | None) -> Json | None:
        """Return a TrainJob that this launch made, else None: a later launch of the same training takes its name."""
        launch = ((found or {}).get("metadata", {}).get("annotations") or {}).get(LAUNCH)
        return found if launch == self.manifest["metadata"]["annotations"][LAUNCH] else None

    def _polls(self, until: float, pause: float) -> Iterator[Json | None]:
        """Yield what stands under this name, now and after each pause until time is up; None where nothing does."""
        missed = 0
        while True:
            try:
                found = self._request("get")
            except NoAnswer:
                missed += 1
                if missed >= PATIENCE:
                    raise
            else:
                missed = 0
                yield found
            if time.monotonic() > until:
                return
            time.sleep(pause)

    def _request(self, verb: str, **content: Any) -> Json | None:
        """Return the answer to a request, None where it asks for a TrainJob that is not there.

        Raises:
            NoAnswer: no connection, an answer that takes too long, 429 or 5xx.
            ParameterError: a refusal.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        target = {**KIND, "namespace": self.namespace, **({} if verb == "create" else {"name": self.name})}
        try:
            call = getattr(self.api, f"{verb}_namespaced_custom_object")
            answer: Json = call(**target, **content, _request_timeout=TIMEOUT_S)
            return answer
        except HTTPError as error:
            raise NoAnswer(f"no Kubernetes API: {error}", source=self.host, remedy="run again") from error
        except ApiException as error:
            status, said = error.status, _message(error)
            if verb != "create" and status in (404, 409):  # 409: it is no longer the one that was to be deleted
                return None
            if not status or status == 429 or status >= 500:
                problem = f"the Kubernetes API answers {status}: {said}" if status else f"no Kubernetes API: {said}"
                raise NoAnswer(problem, source=self.host, remedy="run again") from error
            remedy = _REMEDIES.get(status, f"see {PAGE} for the versions that know this manifest")
            problem = f"cannot {verb} a TrainJob: {status} {said}"
            raise ParameterError(problem, source=self._where(), remedy=remedy) from error

    def _where(self) -> str:
        return f"{self.name} in namespace {self.namespace}"


def _message(error: Any) -> str:
    """Return what an API server says to its refusal: in JSON, or in plain text where it knows no such path."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body or error.reason).strip()
