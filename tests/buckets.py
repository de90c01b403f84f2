"""Helpers of the tests with buckets."""

from __future__ import annotations

import urllib.request

from qwen_edit_async import BucketPath

SECRET = "a-secret-that-nobody-prints"


def create_bucket(server: str, name: str) -> BucketPath:
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request"}
    request = urllib.request.Request(f"{server}/{name}", data=b"", headers=signed, method="PUT")
    urllib.request.urlopen(request).close()
    path = BucketPath.of(f"s3://{name}")
    assert path is not None
    return path


def content(path: BucketPath) -> bytes:
    with path.open() as file:
        return file.read()
