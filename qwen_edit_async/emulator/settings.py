"""What an emulator can be told, in one frozen value."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import attrs
from attrs.validators import ge, gt, in_, instance_of, le, optional

from qwen_edit_async.emulator.durations import Duration, LogNormal
from qwen_edit_async.emulator.engine import EditEngine, PillowEngine
from qwen_edit_async.emulator.faults import FaultPlan
from qwen_edit_async.emulator.validation import Envelope


@attrs.frozen(kw_only=True, eq=False)
class EmulatorSettings:
    """Everything an emulator can be told. All times are seconds on the event loop's clock."""

    port: int = attrs.field(default=0, validator=[ge(0), le(65535)])
    """TCP port of the API on 127.0.0.1; 0 takes a free one. The results origin always takes a free one."""
    api_key: str = attrs.field(default="qwen-edit-emulator-key", repr=False, validator=instance_of(str))
    """The key that ``Authorization: Bearer`` must carry."""
    envelope: Envelope = attrs.field(default="flat", validator=in_(("flat", "params", "both")))
    """The request envelope that is accepted; the other one is answered 400."""
    engine: EditEngine = attrs.field(factory=PillowEngine)
    """Makes the pictures."""
    duration: Duration = attrs.field(factory=LogNormal)
    """How long a task takes once it has a slot: seconds, `LogNormal`, `Bimodal`, any function of a random source, or
    `AfterChecks`. An engine that is slower than that makes it longer."""
    time_scale: float = attrs.field(default=1.0, validator=ge(0))
    """Factor on every duration."""
    slots: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Tasks that are worked on at a time; None for any number."""
    queue: bool = True
    """Whether tasks beyond the slots wait. Otherwise they are refused: 429, code 1002."""
    requests_per_second: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """API calls answered within any one second; more are refused: 429, code 1002."""
    retry_after: float | Literal["date"] | None = None
    """The Retry-After header of these 429: seconds, or a date one second ahead; None sends none."""
    balance: Decimal | None = attrs.field(default=None, validator=optional(instance_of(Decimal)))
    """Money in the account; a task that it does not cover is refused: 402, code 40201. None never ends."""
    price: Decimal = attrs.field(default=Decimal("0.0357"), validator=instance_of(Decimal))
    """Money per output picture; only completed tasks are charged."""
    result_lifetime: float = attrs.field(default=86400.0, validator=gt(0))
    """Seconds that a result URL works; a later status check hands out a fresh one."""
    faults: FaultPlan = attrs.field(factory=FaultPlan, validator=instance_of(FaultPlan))
    """What goes wrong."""
    seed: int = 0
    """Seed of the durations and random picture seeds. Task ids never repeat: a journal may hold old ones."""
    keep_bodies: bool = False
    """Keep each task's parsed JSON, images included, in `TaskRecord.body`."""
    request_log: int = attrs.field(default=10_000, validator=ge(0))
    """How many of the latest requests `EditEmulator.requests` holds."""
