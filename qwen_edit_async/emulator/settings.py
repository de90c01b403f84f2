"""The settings of an emulator, as one frozen value."""

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
    """Settings of an emulator. All times are seconds on the event loop's clock.

    The HTTP statuses and error codes below are those of the protocol ``generation``, unless a setting names another
    protocol.
    """

    port: int = attrs.field(default=0, validator=[ge(0), le(65535)])
    """TCP port of the API on 127.0.0.1; 0 means a free port. Results are served on a second port, always a free one."""
    api_key: str = attrs.field(default="qwen-edit-emulator-key", repr=False, validator=instance_of(str))
    """The key that ``Authorization: Bearer`` must carry."""
    envelope: Envelope = attrs.field(default="flat", validator=in_(("flat", "params", "both", "header")))
    """The form of JSON body that ``generation`` accepts. With ``both``, it accepts ``flat`` and ``params``. Other forms
    get a 400."""
    model_contract: Literal["generation", "queue", "both"] | None = attrs.field(
        default="both", validator=in_(("generation", "queue", "both", None))
    )
    """The protocols in the description of the model. With ``both``, the description recommends generation. With None, a
    request for the description gets a 404."""
    engine: EditEngine = attrs.field(factory=PillowEngine)
    """The engine that makes the pictures."""
    duration: Duration = attrs.field(factory=LogNormal)
    """Running time of a task, not counting its wait for a slot. If the engine takes longer, so does the task.

    Give seconds, `LogNormal`, `Bimodal`, `AfterChecks`, or a function that takes a `random.Random` and returns seconds.
    """
    time_scale: float = attrs.field(default=1.0, validator=ge(0))
    """Factor by which every duration is multiplied."""
    slots: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Maximum number of tasks that run at the same time, or None for no limit."""
    queue: bool = True
    """Whether tasks wait when no slot is free. Otherwise submissions get a 429, code 1002."""
    cancellable: bool = True
    """Whether the queue protocol cancels tasks. Otherwise a cancellation gets a 405, and the task continues."""
    requests_per_second: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Maximum number of API calls within any second, or None for no limit. Further calls get a 429, code 1002."""
    retry_after: float | Literal["date"] | None = None
    """The Retry-After header of 429 replies: seconds, ``"date"`` for a date one second ahead, or None."""
    balance: Decimal | None = attrs.field(default=None, validator=optional(instance_of(Decimal)))
    """Money in the account, or None for no limit. A submission that costs more gets a 402, code 40201."""
    price: Decimal = attrs.field(default=Decimal("0.0357"), validator=instance_of(Decimal))
    """Price of an output picture. Only completed tasks are charged."""
    result_lifetime: float = attrs.field(default=86400.0, validator=gt(0))
    """Seconds until a result URL expires. Each reply that reports the pictures has fresh URLs."""
    faults: FaultPlan = attrs.field(factory=FaultPlan, validator=instance_of(FaultPlan))
    """The faults to inject."""
    seed: int = 0
    """Seed of the durations, and of pictures whose request gives no seed. Task ids do not depend on this setting."""
    keep_bodies: bool = False
    """Whether `TaskRecord.body` keeps each task's parsed JSON, including images."""
    request_log: int = attrs.field(default=10_000, validator=ge(0))
    """The number of requests that `EditEmulator.requests` keeps."""
