"""``qwen-edit emulator``: the embedded service, by itself."""

from __future__ import annotations

import asyncio
from typing import Literal

from qwen_edit_async.cli.display import Screen, put
from qwen_edit_async.cli.messages import ExitCode
from qwen_edit_async.cli.runner import EMULATOR_NOTE, cancel_on_termination
from qwen_edit_async.errors import ConfigurationError


def emulator(
    *,
    port: int = 8787,
    duration: float = 2.0,
    slots: int | None = None,
    requests_per_second: int | None = None,
    envelope: Literal["flat", "params", "both"] = "flat",
) -> int:
    """Run the embedded service on this machine until Ctrl-C.

    It holds to the documented contract and edits real pixels; it is not the model.

    Args:
        port: TCP port on 127.0.0.1; 0 takes a free one.
        duration: Seconds that half of the tasks take; the others take longer.
        slots: Tasks that are worked on at a time; any number by default.
        requests_per_second: More are refused, 429; any number by default.
        envelope: The form of the request's body that is accepted.
    """
    from qwen_edit_async.emulator import EditEmulator, LogNormal  # noqa: PLC0415  # see the package's docstring

    try:
        service = EditEmulator(
            port=port,
            duration=LogNormal(median=duration),
            slots=slots,
            requests_per_second=requests_per_second,
            envelope=envelope,
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from None

    async def serve() -> None:
        cancel_on_termination()
        async with service:
            Screen().note(EMULATOR_NOTE)
            put(f"export QWEN_EDIT_BASE_URL={service.url} QWEN_EDIT_API_KEY={service.api_key}")
            await asyncio.Event().wait()

    try:
        asyncio.run(serve())
    except (KeyboardInterrupt, asyncio.CancelledError):
        Screen().line("stopped")
    return ExitCode.DONE
