"""Chooses the protocol of a session, and the form of its request bodies. Pure."""

from __future__ import annotations

from typing import Any, Final, Literal, cast, get_args

import attrs

from qwen_edit_async.errors import BadRequestError, ConfigurationError
from qwen_edit_async.protocol.base import WireProtocol
from qwen_edit_async.protocol.generation import Envelope, GenerationProtocol
from qwen_edit_async.text import quoted

ProtocolName = Literal["generation", "queue", "dashscope"]
EnvelopeOption = Literal["auto"] | Envelope

MALFORMED_STATUSES: Final = frozenset({200, 400, 422})
"""The HTTP statuses with which services refuse a body of the wrong form. Some services use 200 for this."""


@attrs.define(eq=False)
class Forms:
    """The forms (envelopes) of request bodies that the service may accept, and the form to use.

    Attributes:
        protocol: The protocol in the form to use.
        alternative: The protocol in the form to try next; ``None`` if no form is left to try.
    """

    protocol: WireProtocol
    alternative: WireProtocol | None

    def after(self, protocol: WireProtocol, refusal: BadRequestError) -> WireProtocol | None:
        """Return the protocol in the form to try after ``protocol`` was refused; ``None`` if no other form can help."""
        if refusal.status_code not in MALFORMED_STATUSES or protocol is self.alternative:
            return None
        # If `protocol` is no longer in use, another call has meanwhile found the accepted form.
        return self.alternative if protocol is self.protocol else self.protocol

    def adopt(self, protocol: WireProtocol) -> bool:
        """Use this form from now on, unless a form was already accepted. Return whether this changes the form."""
        if self.alternative is None:
            return False
        is_change = protocol is not self.protocol
        self.protocol, self.alternative = protocol, None
        return is_change


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
