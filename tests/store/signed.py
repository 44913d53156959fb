"""What stands in for a cloud: an S3 server that checks signatures, an STS, an instance's metadata service.

The S3 server is moto behind a front that computes each request's signature again, by the rules of AWS's Signature
Version 4 written down here: unknown key, other secret, other region, lacking or old session token are refused as Amazon
refuses them. It may ask for virtual hosts, and speak TLS with an authority of its own.
"""

import hashlib
import hmac
import http.client
import json
import ssl
import threading
import time
import urllib.parse
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.s3_server import s3_error

REGION = "eu-central-1"


def sign(secret, day, region, text):
    """The signature of Signature Version 4."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request", text):
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()


def canonical(method, path, headers, signed, payload):
    """The canonical request: of path, query and signed headers as they came."""
    place, _, query = path.partition("?")
    pairs = sorted((name, value) for name, _, value in (item.partition("=") for item in query.split("&") if item))
    query = "&".join(f"{name}={value}" for name, value in pairs)
    lines = [f"{name}:{' '.join(headers[name].split())}" for name in signed]
    return "\n".join([method, place, query, *lines, "", ";".join(signed), payload])


class Cloud:
    """`keys`: secret and session token (None: a lasting key) by access key. `refused` counts answers by code."""

    def __init__(self, target, region=REGION, virtual=False):
        self.target, self.region, self.virtual = target, region, virtual
        self.keys, self.expired, self.refused, self.served, self.hosts = {}, set(), [], 0, set()

    def fault(self, method, path, headers, body):
        """S3's code for what is wrong with a request, and its status; None where it is signed well."""
        authorization = headers.get("Authorization", "")
        if not authorization.startswith("AWS4-HMAC-SHA256 "):
            return "AccessDenied", 403
        fields = dict(item.strip().split("=", 1) for item in authorization.partition(" ")[2].split(","))
        access, day, region, *_ = fields["Credential"].split("/")
        if access not in self.keys:
            return "InvalidAccessKeyId", 403
        secret, token = self.keys[access]
        if region != self.region:
            return "AuthorizationHeaderMalformed", 400
        payload = headers["x-amz-content-sha256"]
        if payload not in ("UNSIGNED-PAYLOAD", hashlib.sha256(body).hexdigest()):
            return "XAmzContentSHA256Mismatch", 400
        signed = fields["SignedHeaders"].split(";")
        request = canonical(method, path, {name.lower(): value for name, value in headers.items()}, signed, payload)
        scope = f"{day}/{region}/s3/aws4_request"
        text = ["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, hashlib.sha256(request.encode()).hexdigest()]
        if not hmac.compare_digest(sign(secret, day, region, "\n".join(text)), fields["Signature"]):
            return "SignatureDoesNotMatch", 403
        if token is not None and headers.get("X-Amz-Security-Token") != token:
            return "InvalidToken", 400
        return ("ExpiredToken", 400) if access in self.expired else None

    def document(self, code):
        """S3's error document; the one about the region names the right one."""
        named = (
            f"<Code>{code}</Code><Region>{self.region}</Region>" if code.startswith("Auth") else f"<Code>{code}</Code>"
        )
        return s3_error(code).replace(f"<Code>{code}</Code>".encode(), named.encode())


def _handler(cloud):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def reply(self, status, data, headers=()):
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            if "Content-Length" not in dict(headers):
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = cloud.fault(self.command, self.path, self.headers, body)
            path, bucket = self.path, self.headers["Host"].partition(".s3.localhost")[0]
            cloud.hosts.add(self.headers["Host"].partition(":")[0])
            if fault is None and cloud.virtual:
                fault = None if bucket != self.headers["Host"] else ("InvalidRequest", 400)
                path = f"/{bucket}{path}"
            if fault is not None:
                cloud.refused.append(fault[0])
                headers = [("Content-Type", "application/xml")]
                headers += [("x-amz-bucket-region", cloud.region)] if fault[0].startswith("Auth") else []
                return self.reply(fault[1], cloud.document(fault[0]), headers)
            cloud.served += 1
            connection = http.client.HTTPConnection(cloud.target, timeout=60)
            passed = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            connection.request(self.command, path, body, {**passed, "Host": cloud.target})
            got = connection.getresponse()
            data = got.read()
            drop = ("transfer-encoding", "connection", "server", "date")
            headers = [item for item in got.getheaders() if item[0].lower() not in (*drop, "content-length")]
            length = got.getheader("Content-Length") if self.command == "HEAD" else len(data)
            connection.close()
            return self.reply(got.status, data, [*headers, ("Content-Length", str(length or 0))])

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    return Handler


@contextmanager
def serve(handler, certificate=None):
    """Serve on a port of this machine; yield host and port. `certificate`: files of certificate and key, for TLS."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def cloud(target, certificate=None, **options):
    """A `Cloud` in front of an S3 server; yield it with its `endpoint`."""
    made = Cloud(target, **options)
    with serve(_handler(made), certificate) as place:
        made.endpoint = f"{'https' if certificate else 'http'}://{place}"
        yield made


class Issuer:
    """An STS and a metadata service: each answer is a new temporary key that `cloud` knows; `broken` statuses first.

    `lifetime` is in seconds: the clients renew credentials 10 s before they end.
    """

    def __init__(self, cloud, lifetime=3600):
        self.cloud, self.lifetime, self.broken, self.asked, self.token = (
            cloud,
            lifetime,
            [],
            [],
            "service-account-token",
        )

    def key(self):
        access = f"ASIA{len(self.cloud.keys):08d}"
        self.cloud.keys[access] = (f"secret-{access}", f"token-{access}")
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.lifetime))
        return {"AccessKeyId": access, "SecretAccessKey": f"secret-{access}", "Token": f"token-{access}"}, end

    def answer(self, method, path, headers):
        """Status and body."""
        self.asked.append((method, path))
        if self.broken:
            return self.broken.pop(0), b"no"
        query = dict(urllib.parse.parse_qsl(path.partition("?")[2]))
        if query.get("Action") == "AssumeRoleWithWebIdentity":
            if query["WebIdentityToken"] != self.token or query["RoleArn"] != "arn:aws:iam::1:role/store":
                return 403, b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
            key, end = self.key()
            fields = {**key, "SessionToken": key.pop("Token"), "Expiration": end}
            inner = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items() if name != "Token")
            name = "AssumeRoleWithWebIdentity"
            xml = f"<{name}Result><Credentials>{inner}</Credentials></{name}Result>"
            return (
                200,
                f'<{name}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/">{xml}</{name}Response>'.encode(),
            )
        if (method, path) == ("PUT", "/latest/api/token"):
            return 200, b"metadata-token"
        if path == "/v1/credentials":  # EKS Pod Identity
            allowed = headers.get("Authorization") == self.token
        else:
            allowed = headers.get("X-aws-ec2-metadata-token") == "metadata-token"
        if not allowed:
            return 401, b"no"
        if path == "/latest/meta-data/iam/security-credentials/":
            return 200, b"node-role"
        if path in ("/latest/meta-data/iam/security-credentials/node-role", "/v1/credentials"):
            key, end = self.key()
            return 200, json.dumps({"Code": "Success", **key, "Expiration": end}).encode()
        return 404, b"no"


@contextmanager
def issuer(cloud, **options):
    """An `Issuer` at an address, its `endpoint`."""
    made = Issuer(cloud, **options)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def any(self):
            status, data = made.answer(self.command, self.path, self.headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = any

    with serve(Handler) as place:
        made.endpoint = f"http://{place}"
        yield made
