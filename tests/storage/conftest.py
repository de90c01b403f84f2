"""A real S3 server on loopback, and buckets on it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator

import obstore
import pytest
from buckets import SECRET, create_bucket
from moto.server import ThreadedMotoServer
from obstore.store import MemoryStore

from qwen_edit_async import BucketPath

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def s3_server() -> Iterator[str]:
    """Start an S3 server, and return its address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    obstore.put(MemoryStore(), "a", b"")  # starts obstore's threads, which stay
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch) -> BucketPath:
    """Create a bucket, and name its server and credentials in the environment."""
    options = {"ENDPOINT_URL": s3_server, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": SECRET, "REGION": "us-east-1"}
    for name, value in (options | {"ALLOW_HTTP": "true"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return create_bucket(s3_server, f"bucket-{next(_numbers)}")
