"""Chooses the protocol of a session. Pure."""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.protocol.base import WireProtocol
from qwen_edit_async.protocol.generation import Envelope, GenerationProtocol
from qwen_edit_async.text import quoted

ProtocolName = Literal["generation", "queue", "dashscope"]
EnvelopeOption = Literal["auto"] | Envelope


def choose_protocol(
    protocol: object, envelope: object, model: object, from_environment: str | None = None
) -> tuple[WireProtocol, WireProtocol | None]:
    """Return the protocol to use first, and the alternative for a submission that is refused as malformed.

    Only ``generation`` with the envelope ``auto`` has an alternative.

    Args:
        protocol: The name of a protocol; by default the name in ``from_environment``, or else ``generation``.
        envelope: The envelope for ``generation``. ``auto`` means ``flat`` first, with ``params`` as the alternative.
        model: The name of the model. ``None`` means the protocol's default.
        from_environment: The value of the environment variable ``QWEN_EDIT_PROTOCOL``.

    Raises:
        ConfigurationError: The protocol, the envelope or the model is not valid, or an envelope is given for a
            protocol without envelopes.
    """
    name = (from_environment or "").strip() or "generation" if protocol is None else protocol
    if not isinstance(name, str) or name not in get_args(ProtocolName):
        where = "protocol" if protocol is not None else "the environment's QWEN_EDIT_PROTOCOL"
        raise ConfigurationError(f"{where} is {quoted(name)}: give 'generation', 'queue' or 'dashscope'")
    if not isinstance(envelope, str) or envelope not in {"auto", *get_args(Envelope)}:
        raise ConfigurationError(f"envelope is {quoted(envelope)}: give 'auto', 'flat', 'params' or 'header'")
    options = _model_option(model)
    if name == "generation":
        if envelope == "auto":
            return GenerationProtocol("flat", **options), GenerationProtocol("params", **options)
        return GenerationProtocol(cast("Envelope", envelope), **options), None
    if envelope != "auto":
        raise ConfigurationError(
            f"envelope is {quoted(envelope)}: leave it out, because only 'generation' has envelopes"
        )
    if name == "queue":
        from qwen_edit_async.protocol.queue import QueueProtocol  # noqa: PLC0415  # few sessions use it

        return QueueProtocol(**options), None
    from qwen_edit_async.protocol.dashscope import DashScopeProtocol  # noqa: PLC0415  # few sessions use it

    return DashScopeProtocol(**options), None


def _model_option(model: object) -> dict[str, Any]:
    if model is None:
        return {}
    if not isinstance(model, str) or model.split() != [model] or not model.isascii() or not model.isprintable():
        raise ConfigurationError(f"model is {quoted(model)}: give the service's name for the model")
    return {"model": model}
