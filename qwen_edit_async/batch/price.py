"""The price of a picture, requested from the service before any submission."""

from __future__ import annotations

from typing import Final

import attrs

from qwen_edit_async.models import EditParameters, requested_pictures
from qwen_edit_async.session.session import EditSession
from qwen_edit_async.tasks import Estimate

_SAMPLE: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAgAAAAIAAQAAAADcA+lXAAAAjElEQVR42u3MMQ0AAAwDoPo33YrYtQQEkB5FIBAI"
    "BAKBQCAQCAQCgUAgEAgEAoFAIBAIBAKBQCAQCAQCgUAgEAgEAoFAIBAIBAKBQCAQCAQCgUAgEAgEAoFAIBAIBAKBQCAQCAQCgUAgEAgEAoFAIBAI"
    "BAKBQCAQCAQCgUAgEAgEAoFAIBAIBAKB4HcwNvqHcg2WKzYAAAAASUVORK5CYII="
)
"""A white picture of 512 x 512 pixels."""


async def price_of_picture(session: EditSession, parameters: EditParameters | None = None) -> Estimate:
    """Request the price of one picture with these parameters. Errors are as in :meth:`EditSession.estimate`."""
    estimate = await session.estimate(_SAMPLE, "make it snow", parameters=parameters)
    return attrs.evolve(estimate, cost=estimate.cost / requested_pictures(parameters or EditParameters()))
