"""The checks of ``qwen-edit doctor``. They create no task and cost nothing."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Mapping
from typing import Any, Final, get_args
from urllib.parse import quote

import attrs
from yarl import URL

from qwen_edit_async.batch.price import price_of_picture
from qwen_edit_async.cli.options import ConnectionOptions, shell_text
from qwen_edit_async.contract import MODEL_CONTRACT_PATH
from qwen_edit_async.errors import (
    APIConnectionError,
    APIResponseError,
    AuthenticationError,
    ConfigurationError,
    InsufficientBalanceError,
    NotFoundError,
    PermissionDeniedError,
    QwenEditError,
)
from qwen_edit_async.http import options as http
from qwen_edit_async.http.api import AiohttpTransport
from qwen_edit_async.http.network import Network
from qwen_edit_async.protocol.base import Call, Reply, WireProtocol
from qwen_edit_async.protocol.choice import ProtocolName, choose_protocol
from qwen_edit_async.protocol.generation import Envelope
from qwen_edit_async.protocol.replies import error_from_reply, first_text, load_object, timestamp_of
from qwen_edit_async.session.session import EditSession
from qwen_edit_async.tasks import TaskSnapshot, TaskStatus

_EXTRAS: Final = {
    "images": "PIL",
    "fast": "pybase64",
    "frames": "narwhals",
    "parquet": "pyarrow",
    "cloud": "obstore",
    "mcp": "mcp",
}
"""Extras, each with a module that the extra installs. ``cli`` is left out, because ``doctor`` can't run without it."""

_MISSING_TASK: Final = TaskSnapshot(task_id="qwen-edit-doctor", status=TaskStatus.UNKNOWN)

_CHECK_ADDRESS: Final = "check the address in QWEN_EDIT_BASE_URL"
_WRONG_CLOCK_SECONDS: Final = 60.0
_NOT_FOUND: Final = 404


@attrs.frozen
class Finding:
    """The result of one check.

    Attributes:
        check: The name of the check.
        ok: Whether the check passed; ``None`` if it could not decide.
        found: The result in words.
        advice: The action to take, or an empty string.
    """

    check: str
    ok: bool | None
    found: str = attrs.field(converter=shell_text)
    advice: str = ""


async def examine(connection: ConnectionOptions) -> list[Finding]:
    """Run the checks in order. Stop if the remaining checks depend on a failed check."""
    environment, findings = os.environ, [_extras()]
    network = Network(trust_env=connection.trust_env)
    try:
        named = environment.get(http.PROTOCOL_VARIABLE)
        protocol, _ = choose_protocol(connection.protocol, "auto", connection.model, named)
        url = http.resolve_base_url(None, environment.get(http.BASE_URL_VARIABLE), protocol, allow_insecure=False)
        if http.key_in_environment(protocol, environment) is None:
            advice = f"export {protocol.key_variables[0]}=…"
            return [*findings, Finding("key", ok=False, found="missing", advice=advice)]
        key = http.resolve_api_key(None, protocol, environment)
        EditSession(**connection.session_options())  # refuses bad options
        timeouts = http.resolve_timeouts(connection.timeout)
        transport = AiohttpTransport(url, key, timeouts, default_headers={}, network=network)
        await transport.open()
    except ConfigurationError as error:
        return [*findings, Finding("configuration", ok=False, found=str(error))]
    proxied = network.for_calls_to(url).proxy_of(URL(url)) is not None
    way = f"{url}, {'through the proxy of the environment' if proxied else 'without a proxy'}"
    async with contextlib.aclosing(transport):
        try:
            findings += await _ask(transport, protocol, way)
        except APIConnectionError as error:
            advice = _advice(str(error), proxied=proxied)
            return [*findings, Finding("connection", ok=False, found=str(error), advice=advice)]
    if protocol.has_prices and all(each.ok is not False for each in findings):
        findings.append(await _price(connection))
    return findings


def _extras() -> Finding:
    there = {name: importlib.util.find_spec(module) is not None for name, module in _EXTRAS.items()}
    missing = ",".join(name for name in there if not there[name])
    found = f"installed: {', '.join(name for name in there if there[name]) or 'none'}"
    advice = f'if you need the missing extras: pip install "qwen-edit-async[{missing}]"' if missing else ""
    return Finding("extras", ok=True, found=found, advice=advice)


def _advice(problem: str, *, proxied: bool) -> str:
    if "certificate" in problem:
        return (
            "check the clock; if your network has its own certificate authority, set SSL_CERT_FILE to the authority's "
            "certificate file"
        )
    if proxied:
        return "check the environment's proxy, QWEN_EDIT_BASE_URL and the network"
    return "check QWEN_EDIT_BASE_URL and the network; to use a proxy, set HTTPS_PROXY and pass --trust-env"


async def _ask(transport: AiohttpTransport, protocol: WireProtocol, way: str) -> list[Finding]:
    """Make calls that create no task, and return the findings about their replies."""
    connection = Finding("connection", ok=True, found=way)
    if not protocol.has_tasks:  # the protocol's only path refuses GET, so nothing is created
        reply = await transport.send(Call(method="GET", path=protocol.submission_path))
        return [connection, _unchecked_key(reply, protocol), _clock(reply)]
    reply = await transport.send(protocol.status_check(_MISSING_TASK))
    path = MODEL_CONTRACT_PATH.format(model=quote(protocol.model, safe=""))
    contract = await transport.send(Call(method="GET", path=path))
    return [connection, _key(reply, protocol), _clock(reply), _contract(contract, protocol)]


def _key(reply: Reply, protocol: WireProtocol) -> Finding:
    """Judge the key by the reply about a task that does not exist. A valid key gets "not found"."""
    error = error_from_reply(reply)
    if isinstance(error, AuthenticationError | PermissionDeniedError):
        variables = " or ".join(protocol.key_variables)
        return Finding("key", ok=False, found=str(error), advice=f"check {variables}: did this host issue the key?")
    if isinstance(error, InsufficientBalanceError):
        return Finding("key", ok=False, found=str(error), advice="add money to the account")
    if not isinstance(error, NotFoundError):
        found = f"the reply does not show whether the key is valid (HTTP {reply.status})"
        return Finding("key", ok=None, found=found, advice=f"try again later; if the problem remains, {_CHECK_ADDRESS}")
    if _document(reply) is None:
        return Finding("key", ok=None, found=str(error), advice=_CHECK_ADDRESS)
    return Finding("key", ok=True, found="accepted")


def _unchecked_key(reply: Reply, protocol: WireProtocol) -> Finding:
    """Judge the key by the reply to an unsupported call, which may refuse the key, but can't confirm it."""
    finding = _key(reply, protocol)
    if finding.ok is False:
        return finding
    if reply.status == _NOT_FOUND:
        found = f"not checked: this address might not offer the protocol {protocol.name!r} (HTTP {reply.status})"
        return Finding("key", ok=None, found=found, advice=_CHECK_ADDRESS)
    found = f"not checked: the protocol {protocol.name!r} has no call that checks a key for free"
    return Finding("key", ok=None, found=found, advice="to check the key, make one edit")


def _document(reply: Reply) -> Mapping[str, Any] | None:
    try:
        return load_object(reply)
    except APIResponseError:
        return None


def _clock(reply: Reply) -> Finding:
    sent_at = timestamp_of(reply.headers.get("date", ""))
    if sent_at is None or reply.received_at is None:
        return Finding("clock", ok=None, found="the service does not state the time")
    offset = reply.received_at - sent_at
    if abs(offset) < _WRONG_CLOCK_SECONDS:
        return Finding("clock", ok=True, found="agrees with the service's clock")
    found = f"{abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} the service's clock"
    return Finding("clock", ok=False, found=found, advice="set the clock: certificates and signed URLs depend on it")


def _contract(reply: Reply, protocol: WireProtocol) -> Finding:
    document = (_document(reply) if reply.ok else None) or {}
    stated, mode = first_text(document, ("protocol",)), first_text(document, ("body_mode",))
    if stated is None:
        return Finding("protocol", ok=None, found=f"{protocol.name}; the service does not state its protocol")
    if stated == protocol.name:
        return Finding("protocol", ok=True, found=stated if mode is None else f"{stated}, with the body mode {mode!r}")
    if protocol.submission_path in str(document.get("endpoints")):
        return Finding("protocol", ok=True, found=f"{protocol.name}; the service also has {stated!r}")
    known = stated in get_args(ProtocolName)
    advice = f"use --protocol {stated}" if known else "no protocol of this library fits: check the model's name"
    return Finding("protocol", ok=False, found=f"the service expects {stated!r}", advice=advice)


async def _price(connection: ConnectionOptions) -> Finding:
    """Request the price with one envelope (form of the request body) after the other, until the service states it."""
    reasons = []
    for envelope in get_args(Envelope):
        try:
            async with EditSession(envelope=envelope, max_retries=0, **connection.session_options()) as session:
                estimate = await price_of_picture(session)
        except QwenEditError as error:
            reasons.append(error.summary)
            continue
        advice = "use --envelope header" if envelope == "header" else ""
        price = f"{estimate.cost:f} {estimate.currency}".rstrip()
        return Finding("price", ok=True, found=f"{price} a picture, with the envelope {envelope}", advice=advice)
    found = f"the service does not state the price: {reasons[0]}"
    return Finding("price", ok=None, found=found, advice="to plan a run, give the price of a picture as --price")
