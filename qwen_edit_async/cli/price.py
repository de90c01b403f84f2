"""Requests the price of a picture for a command."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from qwen_edit_async.cli.messages import ExitCode

if TYPE_CHECKING:
    from qwen_edit_async.cli.command import Command
    from qwen_edit_async.models import EditParameters
    from qwen_edit_async.session.session import EditSession


def ask_price(command: Command, parameters: EditParameters) -> tuple[int, Decimal]:
    """Request the price of a picture. Return the exit code and the price, which is valid only if the code is 0."""
    price = Decimal(0)

    async def work(session: EditSession) -> int:
        from qwen_edit_async.batch.price import price_of_picture  # noqa: PLC0415  # see the package's docstring

        nonlocal price
        estimate = await price_of_picture(session, parameters)
        price = estimate.cost
        command.screen.note(f"the service charges {price:f} {estimate.currency}".rstrip() + " a picture")
        return ExitCode.DONE

    return command(work), price
