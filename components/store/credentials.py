"""In whose name a store is asked: keys, a web identity, or the role of the pod or of the machine.

One rule chooses, so that no failure of one way is hidden by another one: keys where the settings hold some; else
the web identity that EKS and the like put into a pod (`AWS_ROLE_ARN`, `AWS_WEB_IDENTITY_TOKEN_FILE`); else what
`AWS_CONTAINER_CREDENTIALS_…` names (EKS Pod Identity, ECS); else the role of the machine, from its metadata service.
The providers are the minio client's. What they raise may hold tokens, so that none of it is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import ParseError

import urllib3
from minio.credentials import IamAwsProvider, Provider, WebIdentityProvider
from minio.credentials.credentials import Credentials

from components.core.errors import ParameterError
from components.store.retry import TransientError, transient

_KEYS = ("S3_ACCESS_KEY", "S3_SECRET_KEY")
_WEB = ("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE")
_CONTAINER = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
_METADATA = "http://169.254.169.254"
_STATUS = re.compile(r"failed with HTTP status code (\d+)")
Settings = Callable[[], Mapping[str, str]]
_SILENT = 3  # tries after which a machine that never gave credentials counts as one that has none


@dataclass(frozen=True)
class Identity:
    """A way to credentials: what it is, in words, what to check where it is refused, and its provider."""

    summary: str
    remedy: str
    provider: Callable[[urllib3.PoolManager], Provider]


def identity(read: Settings, region: str, on_aws: bool) -> Identity:
    """Return the way to credentials that the settings ask for.

    Args:
        read: settings as they are now; keys are read again for each request.
        region: of the store, whose STS is asked.
        on_aws: whether the store is Amazon's; another store's web identity needs `AWS_ENDPOINT_URL_STS`.

    Raises:
        ParameterError: half a pair of variables, or none where the metadata service is turned off.
    """
    environment = read()
    if (keys := _keys(environment)) is not None:
        summary, remedy = "keys S3_ACCESS_KEY and S3_SECRET_KEY", "check S3_ACCESS_KEY and S3_SECRET_KEY"
        if keys.session_token:
            summary, remedy = f"{summary} with S3_SESSION_TOKEN", f"{remedy}, and S3_SESSION_TOKEN, which expires"
        return Identity(summary, remedy, lambda http: Keys(read))
    if _pair(environment, _WEB, "both: the service account's annotation lets EKS set them"):
        return _web_identity(environment, region, on_aws)
    if container := next((environment[name] for name in _CONTAINER if environment.get(name)), ""):
        summary, remedy = f"the pod's role, from {container}", "check the policy of the pod's role"
        return Identity(summary, remedy, lambda http: Checked(IamAwsProvider(http_client=http), container, remedy))
    if environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise ParameterError(_none(), source="environment", remedy=_no_role())
    return _machine(environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "").rstrip("/") or _METADATA)


def pod_has_role(environment: Mapping[str, str]) -> bool:
    """Return whether a pod gets its credentials by its service account, so that its helpers need the same one."""
    keys = all(environment.get(name) for name in _KEYS)
    return not keys and any(environment.get(name) for name in (*_WEB, *_CONTAINER))


def _keys(environment: Mapping[str, str]) -> Credentials | None:
    """Return the keys that stand in the settings, or None; half of them is a ParameterError."""
    token = environment.get("S3_SESSION_TOKEN")
    if _pair(environment, _KEYS, "both, or neither: without keys the role of the pod or machine counts"):
        return Credentials(*(environment[name] for name in _KEYS), token)
    if token:
        remedy = "set S3_ACCESS_KEY and S3_SECRET_KEY that were given with it"
        raise ParameterError("S3_SESSION_TOKEN without keys", source="environment", remedy=remedy)
    return None


def _pair(environment: Mapping[str, str], names: tuple[str, str], remedy: str) -> bool:
    """Return whether both variables are set; one alone is a ParameterError."""
    missing = [name for name in names if not environment.get(name)]
    if len(missing) == 1:
        raise ParameterError(f"no {missing[0]} in the environment", source="environment", remedy=remedy)
    return not missing


def _web_identity(environment: Mapping[str, str], region: str, on_aws: bool) -> Identity:
    role, file = (environment[name] for name in _WEB)
    region, endpoint = environment.get("AWS_REGION") or region, environment.get("AWS_ENDPOINT_URL_STS", "")
    if not endpoint and not on_aws:
        problem = "a web identity, and no AWS_ENDPOINT_URL_STS for a store that is not Amazon's"
        remedy = "set AWS_ENDPOINT_URL_STS to the store's own STS, or give S3_ACCESS_KEY and S3_SECRET_KEY"
        raise ParameterError(problem, source="environment", remedy=remedy)
    endpoint = endpoint or f"https://sts.{region}.amazonaws.com{'.cn' * region.startswith('cn-')}"
    remedy = f"check that {role} trusts this service account, and the role's policy"

    def token() -> dict[str, str]:
        try:
            return {"access_token": Path(file).read_text(encoding="utf-8"), "expires_in": "0"}
        except OSError as error:
            problem = f"cannot read the web identity token: {error.strerror}"
            raise ParameterError(problem, source=f"AWS_WEB_IDENTITY_TOKEN_FILE={file}", remedy=remedy) from error

    def provider(http: urllib3.PoolManager) -> Provider:
        name = environment.get("AWS_ROLE_SESSION_NAME") or "motion-enhancer"
        options = {"role_arn": role, "role_session_name": name, "http_client": http}
        made = WebIdentityProvider(jwt_provider_func=token, sts_endpoint=endpoint, **options)
        return Checked(made, endpoint, remedy)

    return Identity(f"web identity of {role}, through {endpoint}", remedy, provider)


def _machine(endpoint: str) -> Identity:
    remedy = "check the policy of the machine's role"

    def provider(http: urllib3.PoolManager) -> Provider:
        made = IamAwsProvider(custom_endpoint=endpoint, http_client=http)
        return Checked(made, endpoint, _no_role(), silent=_none())

    return Identity(f"the machine's role, from {endpoint}", remedy, provider)


def _none() -> str:
    return "no S3_ACCESS_KEY and S3_SECRET_KEY in the environment, and no role of the pod or machine"


def _no_role() -> str:
    return "set both keys (a Kubernetes secret on a cluster), or give the pod's service account a role"


class Keys(Provider):  # type: ignore[misc]
    """Keys as the settings hold them at each request: a mounted secret changes under a running pod."""

    def __init__(self, read: Settings) -> None:
        self._read = read

    def retrieve(self) -> Credentials:
        """Return the keys of now. Raises ParameterError: they are no longer there."""
        if (found := _keys(self._read())) is None:
            problem = "S3_ACCESS_KEY and S3_SECRET_KEY are no longer there"
            raise ParameterError(problem, source="environment", remedy="put both keys back into the store's secret")
        return found


class Checked(Provider):  # type: ignore[misc]
    """A provider whose failures are this project's errors, without the tokens that its own texts may hold.

    `silent` is the problem where a place that never answered gives none in `_SILENT` tries: nobody may be there.
    """

    def __init__(self, provider: Provider, place: str, remedy: str, silent: str = "") -> None:
        self.provider, self.place, self.remedy, self.silent = provider, place, remedy, silent
        self._failures = 0

    def retrieve(self) -> Credentials:
        """Return credentials that hold for now.

        Raises TransientError: asking again may help; ParameterError: it will not.
        """
        try:
            found = self.provider.retrieve()
        except (urllib3.exceptions.HTTPError, OSError, ValueError, LookupError, TypeError, ParseError) as error:
            raise self._explained(error) from None
        self.silent = ""
        return found

    def _explained(self, error: Exception) -> Exception:
        status = int(found[1]) if (found := _STATUS.search(str(error))) else 0
        later = transient(error) or (f"HTTP {status}" if status in (408, 429) or status >= 500 else None)
        self._failures += 1
        if later is not None and not (self.silent and self._failures >= _SILENT):
            return TransientError(f"{later} of {self.place}")
        if later is not None:
            problem = f"{self.silent} ({later} of {self.place})"
        else:
            answer = f"HTTP {status}" if status else "an answer without credentials"
            problem = f"no credentials for the store: {answer} of {self.place}"
        return ParameterError(problem, source="environment", remedy=self.remedy)
