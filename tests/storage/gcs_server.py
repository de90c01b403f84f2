"""A small server on loopback that speaks the part of Google Cloud Storage's XML API that clients of buckets use."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

EMAIL = "robot@project.example"


class GCSServer(ThreadingHTTPServer):
    """The server, with the content of each file by its bucket and path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[GCSServer]:
        thread = Thread(target=self.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def service_account(self) -> str:
        """Return the JSON of a service account's key, which names this server."""
        key = rsa.generate_private_key(65537, 2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {"client_email": EMAIL, "private_key": pem.decode(), "private_key_id": "1"}
        return json.dumps(account | {"gcs_base_url": f"http://127.0.0.1:{self.server_port}"})


class _Handler(BaseHTTPRequestHandler):
    server: GCSServer

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if (name := self._authorized()) is None:
            return
        if self.headers.get("x-goog-if-generation-match") == "0" and name in self.server.files:
            self._fail(HTTPStatus.PRECONDITION_FAILED, "PreconditionFailed")
            return
        self.server.files[name] = body
        self._reply(HTTPStatus.OK, b"", {"ETag": _tag(body)})

    def do_GET(self) -> None:
        if (name := self._authorized()) is None:
            return
        if "/" not in name:
            self._list(name)
        elif (content := self.server.files.get(name)) is None:
            self._fail(HTTPStatus.NOT_FOUND, "NoSuchKey")
        else:
            self._send_file(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Keep standard error clean."""

    def _authorized(self) -> str | None:
        """Return the bucket and the path in it; ``None`` after a reply to a request without a credential."""
        parts = urlsplit(self.path)
        if "Authorization" not in self.headers and "X-Goog-Signature=" not in parts.query:
            self._fail(HTTPStatus.FORBIDDEN, "AccessDenied")
            return None
        return unquote(parts.path).strip("/")

    def _send_file(self, content: bytes) -> None:
        headers = {"ETag": _tag(content), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            start, end = int(asked[1]), min(int(asked[2]), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content = content[start : end + 1]
        self._reply(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK, content, headers)

    def _list(self, bucket: str) -> None:
        prefix = parse_qs(urlsplit(self.path).query).get("prefix", [""])[0]
        found = [
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size><ETag>{escape(_tag(content))}</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for name, content in sorted(self.server.files.items())
            if name.startswith(f"{bucket}/") and (key := name.removeprefix(f"{bucket}/")).startswith(prefix)
        ]
        self._reply(HTTPStatus.OK, f"<ListBucketResult>{''.join(found)}</ListBucketResult>".encode(), {})

    def _fail(self, status: HTTPStatus, code: str) -> None:
        self._reply(status, f"<Error><Code>{code}</Code><Details>{EMAIL}</Details></Error>".encode(), {})

    def _reply(self, status: HTTPStatus, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'
