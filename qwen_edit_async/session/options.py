"""The options of an open session."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from random import Random

import attrs

from qwen_edit_async.checks import check_not_negative, check_positive
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.events import EditEvent
from qwen_edit_async.http.hosts import ResultHosts
from qwen_edit_async.http.network import Network
from qwen_edit_async.http.options import Timeouts
from qwen_edit_async.scheduling.policies import PollPolicy
from qwen_edit_async.scheduling.retry import RetryPolicy
from qwen_edit_async.text import quoted


@attrs.frozen(eq=False, kw_only=True)
class Limits:
    """The limits of one edit.

    Attributes:
        deadline: The seconds allowed from taking a slot to the end of the edit.
        max_retries: The maximum number of retries of a call, such as a submission, after temporary failures.
    """

    deadline: float
    max_retries: int

    def __attrs_post_init__(self) -> None:
        check_positive(self.deadline, "deadline")
        check_not_negative(self.max_retries, "max_retries")

    def changed(self, deadline: float | None, max_retries: int | None = None) -> Limits:
        """Return a copy of these limits with new values. ``None`` keeps a value."""
        return Limits(
            deadline=self.deadline if deadline is None else deadline,
            max_retries=self.max_retries if max_retries is None else max_retries,
        )


@attrs.frozen(eq=False, kw_only=True)
class Options:
    """The options of :class:`EditSession` that its background work needs."""

    max_in_flight: int
    submit_rate: float | None
    poll_rate: float | None
    polling: PollPolicy
    timeouts: Timeouts
    retry: RetryPolicy
    resubmit_uncertain: bool
    strict: bool
    fit: bool
    inline: bool
    result_hosts: ResultHosts
    network: Network
    on_event: Callable[[EditEvent], object] | None
    random: Random

    def __attrs_post_init__(self) -> None:
        check_positive(self.max_in_flight, "max_in_flight", integer=True)
        if self.on_event is not None and (not callable(self.on_event) or _is_async(self.on_event)):
            raise ConfigurationError(
                f"on_event is {quoted(self.on_event)}: give a function that takes one event and is not async"
            )
        if not _is_policy(self.polling):
            raise ConfigurationError(
                f"polling is {quoted(self.polling)}: give a policy such as FixedInterval(3.0), without async methods"
            )
        if not isinstance(self.random, Random):
            raise ConfigurationError(f"random is {quoted(self.random)}: give a generator such as random.Random(7)")
        for rate, name in ((self.submit_rate, "submit_rate"), (self.poll_rate, "poll_rate")):
            if rate is not None:
                check_positive(rate, name)


def _is_policy(value: object) -> bool:
    # A policy's class has the methods too, but only an instance is a policy.
    if isinstance(value, type) or not isinstance(value, PollPolicy):
        return False
    return not (_is_async(value.next_check) or _is_async(value.ended))


def _is_async(function: Callable[..., object]) -> bool:
    return any(inspect.iscoroutinefunction(each) for each in (function, type(function).__call__))
