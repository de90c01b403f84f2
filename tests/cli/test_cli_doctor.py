"""``qwen-edit doctor``."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import re
import ssl
import sys
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import trustme
from commands import API_KEY

from qwen_edit_async.cli import main
from qwen_edit_async.emulator import EditEmulator, Fault, FaultPlan


@pytest.fixture
def examine(capsys):
    """Return a function that runs the command and returns its exit code and its findings by check."""

    def run(*options):
        code = main(["doctor", "--json", *options])
        report = json.loads(capsys.readouterr().out)
        assert report["ok"] is (code == 0)
        return code, {each.pop("check"): each for each in report["checks"]}

    return run


@pytest.fixture
def gateway(monkeypatch):
    """Return a function that starts an emulator with settings, and names it in the environment."""
    with contextlib.ExitStack() as stack:

        def start(**settings):
            emulator = stack.enter_context(EditEmulator(api_key=API_KEY, **settings).in_thread())
            monkeypatch.setenv("QWEN_EDIT_BASE_URL", emulator.url)
            monkeypatch.setenv("QWEN_EDIT_API_KEY", API_KEY)
            return emulator

        yield start


@pytest.fixture
def findings(service, examine, monkeypatch):
    """Return a function that runs ``doctor`` against a server that gives every request the same answer."""
    with contextlib.ExitStack() as stack:

        def run(*options, status, body, headers=None):
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self):
                    self.rfile.read(int(self.headers.get("Content-Length", 0)))
                    self.send_response_only(status)
                    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

                do_POST = do_GET  # noqa: N815  # the name that the server calls

            server = stack.enter_context(HTTPServer(("127.0.0.1", 0), Handler))
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            monkeypatch.setenv("QWEN_EDIT_BASE_URL", f"http://127.0.0.1:{server.server_port}")
            return examine(*options)[1]

        yield run


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("queue", (0, True, "")),
        ("generation", (1, False, "use --protocol generation")),
        (None, (0, None, "")),
    ],
)
def test_the_protocol_is_compared_with_the_gateways_word(told, expected, gateway, examine):
    gateway(model_contract=told)
    code, found = examine("--protocol", "queue")
    assert (code, found["protocol"]["ok"], found["protocol"]["advice"]) == expected


def test_a_gateway_that_gives_no_price_for_a_moment_is_no_fault(gateway, examine):
    gateway(faults=FaultPlan([Fault.status(503).on("precharge")]))
    code, found = examine()
    assert (code, found["price"]["ok"]) == (0, None)


def test_a_good_set_up_is_ok_and_costs_nothing(service, examine):
    code, found = examine()
    assert code == 0
    assert {check for check, each in found.items() if each["ok"]} == {
        "extras",
        "connection",
        "key",
        "clock",
        "protocol",
        "price",
    }
    assert found["price"]["found"] == "0.0357 USD a picture, with the envelope flat"
    assert found["protocol"]["found"] == "generation, with the body mode 'flat'"
    assert (len(service.tasks), service.statistics().submits) == (0, 0)


def test_people_get_lines_with_what_to_do(service, capsys, monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_API_KEY", "sk-other")
    assert main(["doctor"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert "BAD  key            the API key is missing or invalid (HTTP 401, code 401)" in lines
    assert f"{'':<19} -> check QWEN_EDIT_API_KEY: did this host issue the key?" in lines
    assert "sk-other" not in "".join(lines)
    assert not any(line[5:].startswith("price") for line in lines)


@pytest.mark.parametrize(("protocol", "key"), [("queue", True), ("dashscope", None)])
def test_the_other_protocols_are_examined_without_a_submission(protocol, key, gateway, examine):
    service = gateway()
    code, found = examine("--protocol", protocol)
    assert (code, found["connection"]["ok"], found["key"]["ok"]) == (0, True, key)
    if protocol == "queue":
        assert found["protocol"]["found"] == "queue; the service also has 'generation'"
    else:
        assert found["key"]["found"] == "not checked: the protocol 'dashscope' has no call that checks a key for free"
    assert ("protocol" in found, "price" in found) == (key is True, False)
    assert (len(service.tasks), service.statistics().precharges) == (0, 0)


@pytest.mark.parametrize("envelope", ["params", "header"])
def test_the_envelope_that_the_gateway_takes_is_found(envelope, examine, gateway):
    gateway(envelope=envelope)
    _, found = examine()
    assert f"with the envelope {envelope}" in found["price"]["found"]
    assert found["price"]["advice"] == ("use --envelope header" if envelope == "header" else "")


def test_a_gateway_without_prices_is_no_fault(gateway, examine):
    gateway(faults=FaultPlan([Fault.html_page(404).on("precharge")]))
    code, found = examine()
    assert (code, found["price"]["ok"]) == (0, None)
    assert "the service does not state the price: " in found["price"]["found"]
    assert found["price"]["advice"] == "to plan a run, give the price of a picture as --price"


def test_no_key_is_named_and_nothing_is_asked(service, examine, no_key):
    code, found = examine()
    assert (code, found["key"]["ok"], found["key"]["advice"]) == (3, False, "export QWEN_EDIT_API_KEY=…")
    assert len(service.requests) == 0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("QWEN_EDIT_API_KEY", '"sk-1"', "in quotes"),
        ("QWEN_EDIT_BASE_URL", "example.com", "not a plain URL"),
        ("QWEN_EDIT_BASE_URL", "http://example.com", "use https"),
        ("QWEN_EDIT_PROTOCOL", "grpc", "'grpc'"),
    ],
)
def test_a_wrong_configuration_is_named(name, value, said, service, examine, monkeypatch):  # noqa: PLR0917  # cases
    monkeypatch.setenv(name, value)
    code, found = examine()
    assert (code, found["configuration"]["ok"]) == (2, False)
    assert said in found["configuration"]["found"]


@pytest.mark.parametrize(
    "option", [("--deadline", "-1"), ("--poll-interval", "0"), ("--allow-result-host", "http://x")]
)
def test_an_option_that_no_session_takes_is_a_wrong_configuration(option, service, examine):
    code, found = examine(*option)
    assert (code, found["configuration"]["ok"]) == (2, False)
    assert not service.requests


def test_a_proxy_of_the_environment_that_can_not_be_used_is_named(examine, monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_API_KEY", "sk-1")
    monkeypatch.setenv("https_proxy", "me:hush@proxy:3128")
    code, found = examine("--trust-env")
    assert (code, found["configuration"]["ok"]) == (2, False)
    assert "https_proxy in the environment can't be used" in found["configuration"]["found"]
    assert "hush" not in str(found)


def test_a_dead_proxy_of_the_environment_is_named(examine, monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_API_KEY", "sk-1")
    monkeypatch.setenv("QWEN_EDIT_BASE_URL", "https://service.example")
    monkeypatch.setenv("https_proxy", "http://me:hush@127.0.0.1:9")
    code, found = examine("--trust-env")
    assert (code, found["connection"]["ok"]) == (1, False)
    assert "no reply from the proxy 127.0.0.1:9: " in found["connection"]["found"]
    assert found["connection"]["advice"].startswith("check the environment's proxy")
    assert "HTTPS_PROXY" not in found["connection"]["advice"]
    assert "hush" not in str(found)


def test_an_address_where_nobody_answers_is_named(service, examine, monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_BASE_URL", "http://127.0.0.1:9")
    code, found = examine()
    assert (code, found["connection"]["ok"]) == (1, False)
    assert "check QWEN_EDIT_BASE_URL" in found["connection"]["advice"]
    assert "key" not in found


def test_a_certificate_that_is_not_trusted_is_named(service, examine, monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("QWEN_EDIT_BASE_URL", f"https://127.0.0.1:{server.server_port}")
    code, found = examine()
    server.shutdown()
    server.server_close()
    thread.join()
    assert (code, found["connection"]["ok"]) == (1, False)
    assert "set SSL_CERT_FILE to the authority's certificate file" in found["connection"]["advice"]


def test_a_missing_file_with_certificates_is_named(service, examine, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such.pem")
    code, found = examine()
    assert (code, found["configuration"]["ok"], found["configuration"]["advice"]) == (2, False, "")
    assert "SSL_CERT_FILE is '/no/such.pem' (No such file or directory)" in found["configuration"]["found"]


def test_missing_extras_are_told(examine, no_key, monkeypatch):
    for module in ("pybase64", "narwhals", "pyarrow", "obstore", "mcp"):
        monkeypatch.setitem(sys.modules, module, None)
    _, found = examine()
    assert found["extras"] == {
        "ok": True,
        "found": "installed: images",
        "advice": 'if you need the missing extras: pip install "qwen-edit-async[fast,frames,parquet,cloud,mcp]"',
    }


def test_every_extra_that_belongs_to_all_is_looked_for(examine, no_key, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    _, found = examine()
    missing = re.search(r"qwen-edit-async\[(.*)\]", found["extras"]["advice"]).group(1)
    extras = set(importlib.metadata.metadata("qwen-edit-async").get_all("Provides-Extra"))
    assert set(missing.split(",")) == extras - {"all", "cli", "tables", "ray"}


@pytest.mark.parametrize(
    ("status", "body", "ok", "said"),
    [
        (404, b'{"error": "no such task"}', True, "accepted"),
        (404, b"<html>nothing here</html>", None, "nothing here"),
        (401, b"{}", False, "HTTP 401"),
        (403, b"{}", False, "HTTP 403"),
        (402, b'{"error": {"code": 40201, "message": "empty"}}', False, "empty"),
        (503, b"{}", None, "does not show"),
        (200, b'{"status": "completed"}', None, "does not show"),
    ],
)
def test_the_reply_about_a_task_of_nobody_tells_whether_the_key_is_good(findings, status, body, ok, said):
    finding = findings(status=status, body=body)["key"]
    assert finding["ok"] is ok
    assert bool(finding["advice"]) is (ok is not True)
    assert said in finding["found"]


@pytest.mark.parametrize(
    ("status", "ok", "said"),
    [
        (405, None, "not checked: the protocol 'dashscope' has no call"),
        (404, None, "not checked: this address might not offer the protocol 'dashscope'"),
        (401, False, "HTTP 401"),
    ],
)
def test_a_key_that_no_free_call_checks_is_only_refused_for_certain(findings, status, ok, said):
    finding = findings("--protocol", "dashscope", status=status, body=b"{}")["key"]
    assert finding["ok"] is ok
    assert said in finding["found"]
    assert ("DASHSCOPE_API_KEY or QWEN_EDIT_API_KEY" in finding["advice"]) is (ok is False)


def test_the_address_of_another_service_is_a_wrong_configuration(service, examine, monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_BASE_URL", "https://cloud.vtrix.ai")
    code, found = examine("--protocol", "dashscope")
    assert (code, found["configuration"]["ok"]) == (2, False)
    assert "QWEN_EDIT_BASE_URL names the host cloud.vtrix.ai" in found["configuration"]["found"]


@pytest.mark.parametrize(
    ("headers", "ok", "said"),
    [
        ({"date": formatdate(1e9, usegmt=True)}, True, "agrees"),
        ({"date": formatdate(1e9 - 3600, usegmt=True)}, False, "3600 s ahead of"),
        ({"date": formatdate(1e9 + 90, usegmt=True)}, False, "90 s behind"),
        ({"date": "soon"}, None, "does not state the time"),
        ({"date": f"Sun, {10**20} Sep 2001 01:46:40 GMT"}, None, "does not state the time"),
        ({}, None, "does not state the time"),
    ],
)
def test_the_clock_is_compared_with_the_services(findings, monkeypatch, headers, ok, said):
    monkeypatch.setattr("time.time", lambda: 1e9)
    finding = findings(status=404, body=b"{}", headers=headers)["clock"]
    assert finding["ok"] is ok
    assert said in finding["found"]


@pytest.mark.parametrize(
    ("status", "body", "ok", "advice"),
    [
        (200, b'{"protocol": "queue"}', False, "use --protocol queue"),
        (200, b'{"protocol": "new; rm -r"}', False, "no protocol of this library fits: check the model's name"),
        (200, b'{"protocol": "generation"}', True, ""),
        (200, b"{}", None, ""),
        (200, b"<html>", None, ""),
        (404, b'{"protocol": "queue"}', None, ""),
    ],
)
def test_the_protocol_is_what_the_gateway_tells(findings, status, body, ok, advice):
    finding = findings(status=status, body=body)["protocol"]
    assert (finding["ok"], finding["advice"]) == (ok, advice)
    if body.endswith(b'"queue"}'):
        assert findings("--protocol", "queue", status=status, body=body)["protocol"]["ok"] in {True, None}
