"""How an S3 endpoint is spoken to: endpoint, region, addressing, certificates and identity.

Each comes from a variable, or from the file of a mounted secret (`settings.py`).

| variable | key of the secret | what it is |
|---|---|---|
| `S3_ENDPOINT` | `endpoint` | URL of the server, http or https |
| `S3_ACCESS_KEY`, `S3_SECRET_KEY` | `accesskey`, `secretkey` | without them a role counts (`credentials.py`) |
| `S3_SESSION_TOKEN` | `sessiontoken` | of temporary keys |
| `S3_REGION` | `region` | else the one that an amazonaws.com host names, else us-east-1 |
| `S3_ADDRESSING` | `addressing` | auto, path or virtual: where a request names the bucket |
| `S3_CA_BUNDLE` | `cabundle` | certificates in PEM, or a path to them, trusted beside the system's |
"""

from __future__ import annotations

import logging
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from components.core.errors import MotionEnhancerError, ParameterError
from components.store.credentials import Identity, identity
from components.store.retry import Patience, TransientError, transient
from components.store.settings import KEYS, settings

log = logging.getLogger(__name__)
_EXAMPLE = "e.g. https://minio.example:9000"
# s3.eu-central-1…, s3-eu-west-1…, s3.dualstack.eu-west-1…, bucket.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com
_AWS_REGION = re.compile(
    r"(?:^|\.)s3(?:-fips)?[.-](?:dualstack\.)?([a-z]{2}(?:-[a-z]+)+-\d)\.(?:vpce\.)?amazonaws\.com"
)
_AWS = re.compile(r"(?:^|\.)amazonaws\.com(?:\.cn)?$")


@dataclass(frozen=True)
class Connection:
    """Everything of an S3 endpoint but bucket and prefix; nothing of it is a parameter of a run."""

    endpoint: str
    region: str
    region_from: str
    addressing: str
    certificates: str  # PEM, a path, or empty
    identity: Identity

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Connection:
        """Read the settings. Raises ParameterError: a variable is missing, contradicts another, or is none."""
        read = partial(settings, dict(environment))
        found = read()
        endpoint = _endpoint(found.get("S3_ENDPOINT", ""))
        host = urlsplit(endpoint).hostname or ""
        region, region_from = _region(found.get("S3_REGION", ""), host)
        addressing = found.get("S3_ADDRESSING", "auto")
        if addressing not in ("auto", "path", "virtual"):
            problem = f"S3_ADDRESSING={addressing!r} is none"
            raise ParameterError(problem, source="environment", remedy="auto, path or virtual")
        who = identity(read, region, _AWS.search(host) is not None)
        made = cls(endpoint, region, region_from, addressing, found.get("S3_CA_BUNDLE", ""), who)
        made.client(Patience(1, endpoint))  # tried once
        return made

    def client(self, patience: Patience) -> Minio:
        """Return a new client, which tries each request again for as long as `patience` has."""
        scheme, _, place = self.endpoint.partition("://")
        trust: dict[str, Any] = {"retries": False, "ssl_context": self._trust()}
        pool = urllib3.PoolManager(timeout=patience.timeout, maxsize=16, **trust)
        # credentials come from near by, or not at all
        who = self.identity.provider(urllib3.PoolManager(timeout=urllib3.Timeout(connect=3, read=10), **trust))
        options = {"secure": scheme == "https", "region": self.region, "http_client": pool, "credentials": who}
        try:
            made = Client(patience, place, **options)
        except ValueError as error:  # a path, a bad port, a bad region
            problem = f"S3_ENDPOINT={self.endpoint}, region {self.region}: {error}"
            remedy = f"{_EXAMPLE} (S3_REGION: as the server calls it)"
            raise ParameterError(problem, source="environment", remedy=remedy) from error
        if self.addressing == "path":
            made.disable_virtual_style_endpoint()
        elif self.addressing == "virtual":
            made.enable_virtual_style_endpoint()
        return made

    def _trust(self) -> ssl.SSLContext | None:
        if not self.certificates:
            return None  # the system's, as urllib3 loads them
        context, is_text = ssl.create_default_context(), "-----BEGIN" in self.certificates
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python 3.13's default refuses authorities made long ago
        try:
            context.load_verify_locations(**{"cadata" if is_text else "cafile": self.certificates})
        except OSError as error:  # SSLError is one
            where = "its text" if is_text else self.certificates
            raise _no_certificates(where, error.strerror or error) from error
        return context

    def summary(self) -> list[str]:
        """Return what is in force, one sentence each; no key and no token is in them."""
        styles = {"auto": "virtual hosts at Amazon, else paths", "path": "paths", "virtual": "virtual hosts"}
        lines = [
            f"endpoint: {self.endpoint}",
            f"credentials: {self.identity.summary}",
            f"region: {self.region} ({self.region_from})",
            f"addressing: {self.addressing} ({styles[self.addressing]})",
        ]
        if self.endpoint.startswith("https"):
            lines.append(f"certificates: the system's{' and those of S3_CA_BUNDLE' if self.certificates else ''}")
        return lines


def for_elsewhere(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the store's variables for a container, which has none of this machine's files.

    Raises ParameterError: `S3_CA_BUNDLE` cannot be read.
    """
    found = settings(environment)
    passed = {name: found[name] for name in KEYS.values() if name in found}
    if (bundle := passed.get("S3_CA_BUNDLE", "")) and "-----BEGIN" not in bundle:
        try:
            passed["S3_CA_BUNDLE"] = Path(bundle).read_text()
        except OSError as error:
            raise _no_certificates(bundle, error.strerror) from error
    return passed


def _no_certificates(where: str, why: object) -> ParameterError:
    remedy = "give certificates in PEM, or the path of a file with some"
    return ParameterError(f"S3_CA_BUNDLE, {where}: {why}", source="environment", remedy=remedy)


def _endpoint(given: str) -> str:
    scheme, _, place = given.partition("://")
    if not given:
        remedy = "set it (a Kubernetes secret on a cluster)"
        raise ParameterError("no S3_ENDPOINT in the environment", source="environment", remedy=remedy)
    if scheme.lower() not in ("http", "https") or not place:
        raise ParameterError("S3_ENDPOINT is no http(s) URL", source="environment", remedy=_EXAMPLE)
    if "@" in place:  # not shown: it holds a password
        remedy = f"{_EXAMPLE}; keys: S3_ACCESS_KEY, S3_SECRET_KEY"
        raise ParameterError("S3_ENDPOINT holds a user", source="environment", remedy=remedy)
    try:
        urlsplit(given).port  # noqa: B018 - raises where there is none
    except ValueError as error:
        problem = f"S3_ENDPOINT={given}: invalid port or host ({error})"
        raise ParameterError(problem, source="environment", remedy=_EXAMPLE) from error
    return f"{scheme.lower()}://{place}"


def region_of(host: str) -> str:
    """Return the region that an Amazon host names, or nothing."""
    return found[1] if (found := _AWS_REGION.search(host)) else ""


def _region(given: str, host: str) -> tuple[str, str]:
    named = region_of(host)
    if given and named and given != named:
        problem, remedy = f"S3_REGION={given}, but S3_ENDPOINT names {named}", "leave S3_REGION out, or correct it"
        raise ParameterError(problem, source="environment", remedy=remedy)
    if given or named:
        return given or named, "S3_REGION" if given else "from the endpoint's host"
    return "us-east-1", "no S3_REGION is set"


class Client(Minio):  # type: ignore[misc]
    """The minio client; it tries each single request again, so that a long upload or listing goes on where it was.

    Every request of the client passes through the one method that is overridden; it is signed anew at each try.
    """

    def __init__(self, patience: Patience, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._patience = patience

    def _url_open(self, method: str, *arguments: Any, **options: Any) -> Any:
        def once() -> Any:
            try:
                return _whole(method, super(Client, self)._url_open(method, *arguments, **options))
            except (MinioException, urllib3.exceptions.HTTPError, ConnectionError) as error:
                if (reason := transient(error)) is None:
                    raise
                raise TransientError(reason) from error

        name = options.get("object_name") or options.get("bucket_name") or ""
        return self._patience(f"{method} {name}".strip(), once)

    def _abort_multipart_upload(self, bucket_name: str, object_name: str, upload_id: str) -> None:
        """Free the parts of a failed upload; tried once, as what counts is why it failed."""
        what = {"bucket_name": bucket_name, "object_name": object_name, "query_params": {"uploadId": upload_id}}
        try:
            super()._url_open("DELETE", self._get_region(bucket_name), **what)
        except (MinioException, urllib3.exceptions.HTTPError, OSError, TransientError, MotionEnhancerError) as error:
            lost = f"parts of a failed upload stay in the bucket ({type(error).__name__})"
            log.warning("%s: %s, until a rule AbortIncompleteMultipartUpload removes them", object_name, lost)


def _whole(method: str, response: Any) -> Any:
    """Return an answer that is what its status says.

    Raises TransientError: its body may be cut, as its length is not known; S3Error: it holds an error though its status
    is 200, which S3 answers where a copy or the end of an upload fails late. The answer about many deletions holds one
    for each object that stays.
    """
    headers = response.headers
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    if method == "GET" and "content-length" not in headers and not chunked:
        response.close()
        raise TransientError("an answer without its length")
    if method in ("PUT", "POST") and b"<Error" in response.data and b"<DeleteResult" not in response.data:
        raise S3Error.fromxml(response)
    return response
