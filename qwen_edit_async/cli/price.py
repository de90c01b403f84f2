"""The price of a picture, requested from the service before any submission."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from qwen_edit_async.cli.messages import ExitCode
from qwen_edit_async.contract import MIN_N

if TYPE_CHECKING:
    from qwen_edit_async.cli.command import Command
    from qwen_edit_async.models import EditParameters
    from qwen_edit_async.session.session import EditSession

SAMPLE: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAgAAAAIAAQAAAADcA+lXAAAAjElEQVR42u3MMQ0AAAwDoPo33YrYtQQEkB5FIBAI"
    "BAKBQCAQCAQCgUAgEAgEAoFAIBAIBAKBQCAQCAQCgUAgEAgEAoFAIBAIBAKBQCAQCAQCgUAgEAgEAoFAIBAIBAKBQCAQCAQCgUAgEAgEAoFAIBAI"
    "BAKBQCAQCAQCgUAgEAgEAoFAIBAIBAKB4HcwNvqHcg2WKzYAAAAASUVORK5CYII="
)
"""A white picture of 512 x 512 pixels, for a request that only estimates a price."""


def ask_price(command: Command, parameters: EditParameters) -> tuple[int, Decimal]:
    """Request the price of a picture. Return the exit code and the price, which is valid only if the code is 0."""
    price = Decimal(0)

    async def work(session: EditSession) -> int:
        nonlocal price
        estimate = await session.estimate(SAMPLE, "make it snow", parameters=parameters)
        price = estimate.cost / (parameters.n or MIN_N)
        command.screen.note(f"the service charges {price:f} {estimate.currency}".rstrip() + " a picture")
        return ExitCode.DONE

    return command(work), price
