"""``qwen-edit emulator`` runs the emulator as a standalone server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from qwen_edit_async.cli.command import EMULATOR_NOTE
from qwen_edit_async.cli.display import Screen, print_output
from qwen_edit_async.cli.messages import ExitCode
from qwen_edit_async.cli.signals import cancel_on_termination
from qwen_edit_async.errors import ConfigurationError

if TYPE_CHECKING:
    from qwen_edit_async.emulator import EditEmulator


def emulator(
    *,
    port: int = 8787,
    duration: float = 2.0,
    slots: int | None = None,
    requests_per_second: int | None = None,
    envelope: Literal["flat", "params", "both", "header"] = "flat",
) -> int:
    """Run an emulator of the service on this machine until Ctrl-C.

    The emulator follows the service's documented contract. It edits pictures with simple effects, without the model.

    Args:
        port: The TCP port on 127.0.0.1; 0 means any free port.
        duration: The median duration of a task, in seconds.
        slots: Maximum number of tasks that run at the same time (default: no limit).
        requests_per_second: Maximum number of API calls per second (default: no limit). Further calls get a 429.
        envelope: The form of request body that the generation protocol accepts. "both" allows flat and params.
    """
    from qwen_edit_async.emulator import EditEmulator, LogNormal  # noqa: PLC0415  # slow to import

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
    try:
        asyncio.run(_serve(service))
    except (KeyboardInterrupt, asyncio.CancelledError):
        Screen().line("stopped")
    return ExitCode.DONE


async def _serve(service: EditEmulator) -> None:
    cancel_on_termination()
    async with service:
        Screen().note(EMULATOR_NOTE)
        print_output(f"export QWEN_EDIT_BASE_URL={service.url} QWEN_EDIT_API_KEY={service.api_key}")
        await asyncio.Event().wait()
