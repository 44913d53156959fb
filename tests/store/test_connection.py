"""An S3 endpoint as clouds serve it: signatures, region, session token, roles, certificates, addressing.

The server verifies every signature (`signed.py`); each test has the environment that a pod would have.
"""

import logging
import os
import socket

import pytest

from components.core.errors import ParameterError, TryAgainError
from components.store import credentials, settings
from components.store.access import check_access
from components.store.address import open_backend
from components.store.connection import Connection, for_elsewhere
from components.store.retry import Patience
from components.store.settings import KEYS
from tests.command import python
from tests.s3_server import closed_port, s3_server
from tests.sft.trainer import service_account
from tests.store.mounted import mount
from tests.store.signed import REGION, cloud, issuer

URI, ACCESS, SECRET, TOKEN = "minio://main/deep/store", "AKIATEST", "secret-of-akiatest", "token-of-akiatest"
ROLE = "arn:aws:iam::1:role/store"


@pytest.fixture(scope="module")
def moto():
    with s3_server("main") as client:
        yield client._base_url.host


@pytest.fixture
def server(moto):
    """A cloud in `REGION` that knows one lasting key."""
    with cloud(moto) as made:
        made.keys[ACCESS] = (SECRET, None)
        yield made


@pytest.fixture
def pod(monkeypatch):
    """Function that gives this process the environment of a pod: what the secret's keys become, and nothing else."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "S3_")) or name.lower() in ("http_proxy", "https_proxy"):
            monkeypatch.delenv(name)

    def enter(secret, **injected):
        for name, value in {**{KEYS[key]: value for key, value in secret.items()}, **injected}.items():
            monkeypatch.setenv(name, value)

    return enter


@pytest.fixture
def step(pod, monkeypatch, tmp_path):
    """Function that gives this process what a step's pod has: the endpoint's variable, and the whole secret mounted."""
    monkeypatch.setattr(settings, "FOLDER", tmp_path / "etc" / "store")

    def enter(secret, **injected):
        pod({"endpoint": secret["endpoint"]}, **injected)
        mount(settings.FOLDER, secret)

    return enter


def keys(server, **more):
    return {"endpoint": server.endpoint, "accesskey": ACCESS, "secretkey": SECRET, **more}


def works(uri=URI, patience=0.05):
    """Every operation of a store; what is in force, as the bootstrap Job prints it."""
    backend = open_backend(uri, patience)
    backend.put("a/x", b"12345")
    assert (backend.get("a/x"), backend.read("a/x", 1, 3), backend.size("a/x")) == (b"12345", b"234", 5)
    assert backend.local("a/x").read_bytes() == b"12345"
    assert backend.copy_from(backend, "a/x", "a/name with ü + %")
    assert [item.path for item in backend.walk("a")] == ["a/name with ü + %", "a/x"]
    for item in list(backend.walk("a")):
        backend.delete(item.path)
    assert backend.get("a/x") is None
    return check_access(backend)


# Keys and region ------------------------------------------------------------------------------------------------------


def test_the_right_region_and_key_do_everything(server, pod):
    pod(keys(server, region=REGION))
    assert works() == [
        f"store: {URI}",
        f"endpoint: {server.endpoint}",
        "credentials: keys S3_ACCESS_KEY and S3_SECRET_KEY",
        f"region: {REGION} (S3_REGION)",
        "addressing: auto (virtual hosts at Amazon, else paths)",
        f"put, get, list and delete work under {URI}",
    ]
    assert (server.refused, server.served > 10) == ([], True)


@pytest.mark.parametrize("call", [lambda b: b.get("x"), lambda b: b.size("x"), lambda b: list(b.walk())])
def test_a_wrong_region_names_the_right_one_at_once(server, pod, call):
    pod(keys(server))
    problem = f"the bucket is in region {REGION}, this request was for us-east-1"
    with pytest.raises(ParameterError, match=problem) as caught:
        call(open_backend(URI))
    assert f"S3_REGION={REGION}" in caught.value.remedy
    assert len(server.refused) <= 2  # never tried again
    assert server.served == 0


def test_a_big_file_goes_in_parts_that_are_signed_each(server, pod, tmp_path):
    pod(keys(server, region=REGION))
    (tmp_path / "big").write_bytes(os.urandom(6 * 2**20))
    backend = open_backend(URI)
    backend.put_file("big", tmp_path / "big")
    assert backend.local("big").read_bytes() == (tmp_path / "big").read_bytes()
    assert server.refused == []


@pytest.mark.parametrize(
    ("change", "code"),
    [({"secretkey": "wrong"}, "SignatureDoesNotMatch"), ({"accesskey": "other"}, "InvalidAccessKeyId")],
)
def test_wrong_keys_are_refused_and_not_printed(server, pod, change, code):
    pod(keys(server, region=REGION, **change))
    with pytest.raises(ParameterError, match=code) as caught:
        open_backend(URI).get("x")
    assert "check S3_ACCESS_KEY and S3_SECRET_KEY" in caught.value.remedy
    assert not any(value in str(caught.value) for value in (SECRET, "wrong"))


@pytest.mark.parametrize(
    ("endpoint", "given", "region"),
    [
        ("https://s3.eu-central-1.amazonaws.com", "", "eu-central-1"),
        ("https://s3-eu-west-1.amazonaws.com", "", "eu-west-1"),
        ("https://s3.dualstack.ap-southeast-2.amazonaws.com", "", "ap-southeast-2"),
        ("https://s3-fips.us-gov-west-1.amazonaws.com", "", "us-gov-west-1"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "", "cn-north-1"),
        ("https://bucket.vpce-1a2b-3c4d.s3.us-west-2.vpce.amazonaws.com", "", "us-west-2"),
        ("https://s3.amazonaws.com", "", "us-east-1"),
        ("https://s3.amazonaws.com", "eu-north-1", "eu-north-1"),
        ("https://s3.fr-par.scw.cloud", "fr-par", "fr-par"),
        ("http://minio.s3.example:9000", "", "us-east-1"),
    ],
)
def test_the_region_is_the_given_one_or_that_of_amazons_host(endpoint, given, region):
    made = Connection.from_environment(
        {"S3_ENDPOINT": endpoint, "S3_REGION": given, "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "s"}
    )
    assert made.region == region


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"S3_ENDPOINT": "https://s3.eu-central-1.amazonaws.com", "S3_REGION": "us-east-1"}, "names eu-central-1"),
        ({"S3_REGION": "not a region"}, "not a region"),
        ({"S3_ADDRESSING": "dns"}, "'dns'"),
        ({"S3_CA_BUNDLE": "/no/such.pem"}, "/no/such.pem: No such file"),
        ({"S3_CA_BUNDLE": "-----BEGIN nothing"}, "its text"),
        ({"S3_SECRET_KEY": ""}, "no S3_SECRET_KEY"),
        ({"S3_ACCESS_KEY": "", "S3_SECRET_KEY": "", "S3_SESSION_TOKEN": "t"}, "S3_SESSION_TOKEN without keys"),
        ({"S3_ACCESS_KEY": "", "S3_SECRET_KEY": "", "AWS_ROLE_ARN": ROLE}, "no AWS_WEB_IDENTITY_TOKEN_FILE"),
        ({"S3_ACCESS_KEY": "", "S3_SECRET_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}, "no role of the pod"),
    ],
)
def test_an_environment_that_cannot_work_is_refused_before_any_request(change, said):
    known = {"S3_ENDPOINT": "https://minio.example", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "s"}
    with pytest.raises(ParameterError, match=said) as caught:
        Connection.from_environment({**known, **change})
    assert caught.value.source == "environment"


# Session tokens and roles ---------------------------------------------------------------------------------------------


def test_a_session_token_works_until_it_has_expired(server, pod):
    server.keys[ACCESS] = (SECRET, TOKEN)
    pod(keys(server, region=REGION, sessiontoken=TOKEN))
    assert "credentials: keys S3_ACCESS_KEY and S3_SECRET_KEY with S3_SESSION_TOKEN" in works()
    server.expired.add(ACCESS)
    with pytest.raises(ParameterError, match="ExpiredToken, the credentials have expired") as caught:
        open_backend(URI).get("x")
    assert "S3_SESSION_TOKEN, which expires" in caught.value.remedy
    assert TOKEN not in str(caught.value)


def test_without_its_session_token_a_key_is_refused(server, pod):
    server.keys[ACCESS] = (SECRET, TOKEN)
    pod(keys(server, region=REGION))
    with pytest.raises(ParameterError, match="InvalidToken"):
        open_backend(URI).get("x")


@pytest.fixture
def web(server, pod, tmp_path):
    """A pod whose service account has a role: EKS injects two variables, the secret holds endpoint and region."""
    with issuer(server) as sts:
        (tmp_path / "token").write_text(sts.token)
        injected = {"AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token")}
        pod({"endpoint": server.endpoint, "region": REGION}, **injected, AWS_ENDPOINT_URL_STS=sts.endpoint)
        yield sts


def test_a_web_identity_works_without_keys(server, web):
    assert f"credentials: web identity of {ROLE}, through {web.endpoint}" in works()
    assert len(web.asked) == 1  # for an hour
    assert "RoleSessionName=motion-enhancer" in web.asked[0][1]
    assert server.refused == []
    done = python("-m", "components.store.bootstrap", STORE=URI)  # as its Job does
    assert f"put, get, list and delete work under {URI}" in done.stderr
    assert not any(secret in done.stderr for secret, token in server.keys.values())


def test_credentials_are_renewed_before_they_end(server, web):
    web.lifetime = 5  # less than the 10 s before the end in which the client asks anew
    backend = open_backend(URI)
    backend.put("x", b"1")
    assert backend.get("x") == b"1"
    assert len(web.asked) == 2
    assert server.refused == []


def test_an_sts_that_is_busy_is_asked_again(server, web):
    web.broken = [503, 429]
    assert open_backend(URI, 0.1).size("absent") is None
    assert len(web.asked) == 3


def test_an_sts_that_stays_away_is_a_store_that_stays_away(web, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(TryAgainError, match="no connection of http"):
        open_backend(URI, 0.01).get("x")


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_a_refused_web_identity_is_told_without_its_token(web, tmp_path, level):
    (tmp_path / "token").write_text("another-account")
    done = python("-m", "components.store.bootstrap", code=2, STORE=URI, LOG_LEVEL=level)
    assert f"no credentials for the store: HTTP 403 of {web.endpoint}" in done.stderr
    assert f"check that {ROLE} trusts this service account" in done.stderr
    assert "another-account" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_web_identity_elsewhere_than_at_amazon_needs_an_sts(web, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL_STS")
    with pytest.raises(ParameterError, match="AWS_ENDPOINT_URL_STS"):
        open_backend(URI)


@pytest.mark.parametrize(
    ("endpoint", "region", "sts"),
    [
        ("https://s3.eu-central-1.amazonaws.com", "", "https://sts.eu-central-1.amazonaws.com"),
        ("https://s3.eu-central-1.amazonaws.com", "eu-west-3", "https://sts.eu-west-3.amazonaws.com"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "", "https://sts.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_amazons_sts_is_that_of_the_region(endpoint, region, sts):
    given = {"S3_ENDPOINT": endpoint, "AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": "/t", "AWS_REGION": region}
    assert Connection.from_environment(given).identity.summary == f"web identity of {ROLE}, through {sts}"


def test_the_role_of_a_machine_works_without_keys(server, pod):
    with issuer(server) as metadata:
        pod({"endpoint": server.endpoint, "region": REGION}, AWS_EC2_METADATA_SERVICE_ENDPOINT=metadata.endpoint)
        assert f"credentials: the machine's role, from {metadata.endpoint}" in works()
        assert [path.rpartition("/")[2] for _, path in metadata.asked] == ["token", "", "node-role"]


def test_the_role_of_a_pod_works_without_keys(server, pod, tmp_path):
    with issuer(server) as agent:
        (tmp_path / "token").write_text(agent.token)
        token = {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token")}
        uri = f"{agent.endpoint}/v1/credentials"
        pod({"endpoint": server.endpoint, "region": REGION}, AWS_CONTAINER_CREDENTIALS_FULL_URI=uri, **token)
        assert f"credentials: the pod's role, from {uri}" in works()


def test_no_keys_and_no_role_is_said_soon(server, pod):
    nobody = f"http://127.0.0.1:{closed_port()}"
    pod({"endpoint": server.endpoint}, AWS_EC2_METADATA_SERVICE_ENDPOINT=nobody)
    with pytest.raises(ParameterError, match="no S3_ACCESS_KEY and S3_SECRET_KEY in the environment, and no role"):
        open_backend(URI, 0.2).get("x")


def test_a_machine_whose_metadata_fail_later_is_asked_again(server, pod):
    with issuer(server, lifetime=5) as metadata:
        pod({"endpoint": server.endpoint, "region": REGION}, AWS_EC2_METADATA_SERVICE_ENDPOINT=metadata.endpoint)
        backend = open_backend(URI, 0.2)
        assert backend.get("absent") is None
        metadata.broken = [500] * (credentials._SILENT + 1)
        assert backend.get("absent") is None
        assert metadata.broken == []


# A mounted secret -----------------------------------------------------------------------------------------------------


def test_a_steps_mounted_secret_does_everything_and_is_not_printed(server, step):
    server.keys[ACCESS] = (SECRET, TOKEN)
    secret = {key: f"{text}\n" for key, text in keys(server, region=REGION, sessiontoken=TOKEN).items()}
    step({**secret, "endpoint": server.endpoint})
    lines = works()
    assert "credentials: keys S3_ACCESS_KEY and S3_SECRET_KEY with S3_SESSION_TOKEN" in lines
    assert f"region: {REGION} (S3_REGION)" in lines
    assert server.refused == []
    program = "import pathlib, runpy, sys; from components.store import settings; "
    program += "settings.FOLDER = pathlib.Path(sys.argv.pop()); "
    program += "runpy.run_module('components.store.bootstrap', run_name='__main__')"
    done = python("-c", program, settings.FOLDER, STORE=URI, LOG_LEVEL="DEBUG")
    assert f"put, get, list and delete work under {URI}" in done.stderr
    assert not any(value in done.stdout + done.stderr for value in (SECRET, TOKEN))


def test_a_secret_that_changes_reaches_a_store_that_is_open(server, step):
    server.keys[ACCESS] = (SECRET, TOKEN)
    step(keys(server, region=REGION, sessiontoken=TOKEN))
    backend = open_backend(URI, 0.05)
    backend.put("x", b"1")
    server.keys["AKIANEXT"] = ("next-secret", "next-token")
    server.expired.add(ACCESS)
    mount(settings.FOLDER, {"accesskey": "AKIANEXT", "secretkey": "next-secret", "sessiontoken": "next-token"})
    assert backend.get("x") == b"1"
    assert server.refused == []
    mount(settings.FOLDER, {"accesskey": "AKIANEXT"})
    with pytest.raises(ParameterError, match="no S3_SECRET_KEY"):
        backend.get("x")
    mount(settings.FOLDER, {"region": REGION})
    with pytest.raises(ParameterError, match="no longer there") as caught:
        backend.get("x")
    assert "both keys" in caught.value.remedy


def test_a_variable_counts_before_a_file_and_keys_are_not_mixed(step):
    step({"endpoint": "https://a", "accesskey": "a", "secretkey": "s", "sessiontoken": "t", "region": "x", "more": "m"})
    known = {"S3_ENDPOINT": "https://b", "S3_REGION": "", "HOME": "/"}
    assert settings.settings(known) == {
        "S3_ENDPOINT": "https://b",
        "S3_ACCESS_KEY": "a",
        "S3_SECRET_KEY": "s",
        "S3_SESSION_TOKEN": "t",
        "S3_REGION": "x",
        "HOME": "/",
    }
    own = {"S3_ENDPOINT": "https://b", "S3_ACCESS_KEY": "b", "S3_SECRET_KEY": "c"}
    assert settings.settings(own) == {**own, "S3_REGION": "x"}
    assert for_elsewhere(own) == {**own, "S3_REGION": "x"}


def test_a_secret_without_keys_leaves_the_role(step, server):
    with issuer(server) as metadata:
        endpoint = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.endpoint}
        step({"endpoint": server.endpoint, "region": REGION, "accesskey": "", "secretkey": "\n"}, **endpoint)
        assert f"credentials: the machine's role, from {metadata.endpoint}" in works()


def test_a_secret_that_changes_while_it_is_read_is_read_again(step, monkeypatch):
    step({"endpoint": "https://a", "accesskey": "old", "secretkey": "old", "sessiontoken": "old"})
    read, seen = settings._text, []

    def text(file):
        seen.append(file.name)
        if len(seen) == 3:  # after the first key
            mount(settings.FOLDER, {"accesskey": "new", "secretkey": "new"})
        return read(file)

    monkeypatch.setattr(settings, "_text", text)
    assert settings.settings({}) == {"S3_ACCESS_KEY": "new", "S3_SECRET_KEY": "new"}


@pytest.mark.parametrize(("content", "said"), [(b"s\xff\xfe", "no UTF-8"), (None, "Is a directory")])
def test_a_file_that_cannot_be_read_is_named_and_not_printed(step, content, said):
    step({"endpoint": "https://a", "accesskey": "a"})
    file = settings.FOLDER / "secretkey"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(ParameterError, match=said) as caught:
        open_backend(URI)
    assert caught.value.source == str(file)
    assert caught.value.__cause__ is None
    assert "xff" not in str(caught.value)


# Certificates and addressing ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Files of a certificate that is its own authority, and of its key."""
    folder = tmp_path_factory.mktemp("authority")
    return service_account(folder, "") / "ca.crt", folder / "key.pem"


@pytest.mark.parametrize("form", ["path", "text", "mounted"])
def test_an_authority_of_ones_own_by_path_and_as_a_secrets_text(moto, pod, step, authority, form):
    with cloud(moto, authority) as server:
        server.keys[ACCESS] = (SECRET, None)
        bundle = str(authority[0]) if form == "path" else authority[0].read_text()
        (step if form == "mounted" else pod)(keys(server, region=REGION, cabundle=bundle))
        lines = works()
        assert "certificates: the system's and those of S3_CA_BUNDLE" in lines
        assert "BEGIN" not in str(lines)


def test_a_container_gets_the_text_of_the_certificates(authority):
    given = {"S3_ENDPOINT": "https://minio.example", "S3_CA_BUNDLE": str(authority[0]), "S3_REGION": "", "HOME": "/"}
    text = authority[0].read_text()
    assert for_elsewhere(given) == {"S3_ENDPOINT": "https://minio.example", "S3_CA_BUNDLE": text}
    assert for_elsewhere({"S3_CA_BUNDLE": text}) == {"S3_CA_BUNDLE": text}
    with pytest.raises(ParameterError, match="No such file"):
        for_elsewhere({"S3_CA_BUNDLE": "/no/such.pem"})


def test_an_unknown_authority_is_refused_at_once(moto, pod, authority):
    with cloud(moto, authority) as server:
        pod(keys(server, region=REGION))
        with pytest.raises(ParameterError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            open_backend(URI).get("x")
        assert "S3_CA_BUNDLE" in caught.value.remedy


@pytest.fixture
def names(monkeypatch):
    """Every name below localhost is this machine, as a bucket's name is in a cloud's DNS."""
    ask = socket.getaddrinfo
    here = lambda host, *more, **options: ask(
        "127.0.0.1" if str(host).endswith("localhost") else host, *more, **options
    )
    monkeypatch.setattr(socket, "getaddrinfo", here)


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("addressing", ["virtual", "path", "auto"])
def test_virtual_hosts_where_a_server_asks_for_them(moto, pod, addressing):
    with cloud(moto, virtual=True) as server:
        server.keys[ACCESS] = (SECRET, None)
        endpoint = server.endpoint.replace("127.0.0.1", "s3.localhost")
        pod({**keys(server, region=REGION, addressing=addressing), "endpoint": endpoint})
        if addressing == "virtual":
            assert "addressing: virtual (virtual hosts)" in works()
            assert server.hosts == {"main.s3.localhost"}
        else:
            with pytest.raises(ParameterError, match="InvalidRequest") as caught:
                works()
            assert "S3_ADDRESSING" in caught.value.remedy


@pytest.mark.parametrize(("addressing", "host"), [("auto", "main.s3."), ("path", "s3."), ("virtual", "main.s3.")])
def test_amazon_is_addressed_by_virtual_hosts_unless_paths_are_asked_for(addressing, host):
    given = {"S3_ENDPOINT": "https://s3.eu-west-1.amazonaws.com", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "s"}
    connection = Connection.from_environment({**given, "S3_ADDRESSING": addressing})
    url = connection.client(Patience(1, "x")).presigned_get_object("main", "k")
    assert url.startswith(f"https://{host}eu-west-1.amazonaws.com/")


# The whole way --------------------------------------------------------------------------------------------------------


def test_the_bootstrap_job_prints_what_is_in_force_and_no_secret(server, pod):
    server.keys[ACCESS] = (SECRET, TOKEN)
    pod(keys(server, region=REGION, sessiontoken=TOKEN))
    done = python("-m", "components.store.bootstrap", STORE=URI)
    for line in (f"region: {REGION} (S3_REGION)", f"put, get, list and delete work under {URI}"):
        assert line in done.stderr
    assert not any(value in done.stdout + done.stderr for value in (SECRET, TOKEN))


def test_a_key_that_may_not_delete_is_told_which_of_the_four_work(server, pod, monkeypatch):
    pod(keys(server, region=REGION))
    fault = server.fault
    deny = lambda method, *request: ("AccessDenied", 403) if method == "DELETE" else fault(method, *request)
    monkeypatch.setattr(server, "fault", deny)
    with pytest.raises(ParameterError, match=r"refuses delete \(delete: .*AccessDenied\); put, list, get works?"):
        check_access(open_backend(URI))


def test_access_to_a_folder_is_tried_as_well(tmp_path):
    lines = check_access(open_backend(str(tmp_path)))
    assert lines == [f"store: {tmp_path.as_uri()}", f"put, get, list and delete work under {tmp_path.as_uri()}"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nothing_of_a_request_is_logged(server, pod, caplog):
    caplog.set_level(logging.DEBUG)
    pod(keys(server, region=REGION))
    works()
    assert SECRET not in caplog.text
