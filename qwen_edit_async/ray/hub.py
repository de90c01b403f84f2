"""Starts the hub of a cluster, or finds the running hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from qwen_edit_async.batch import BatchReport
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.ray.actor import HubActor
from qwen_edit_async.statistics import SessionStatistics

_NAMESPACE: Final = "qwen-edit"
_DEFAULT_NAME: Final = "hub"

_LASTING: Final = {
    "namespace": _NAMESPACE,
    "lifetime": "detached",
    "get_if_exists": True,
    "max_restarts": -1,
    "max_task_retries": -1,
    "num_cpus": 0,
    "resources": {"node:__internal_head__": 0.001},  # only the head node of a cluster has this resource
    "max_concurrency": 1_000_000,  # calls that bring images must not queue behind calls that wait for edits
}
"""Ray options for the hub's actor."""


def start_hub(
    folder: str | os.PathLike[str],
    *,
    name: str = _DEFAULT_NAME,
    max_in_flight: int = 64,
    submit_rate: float | None = None,
    max_cost: float | str | None = None,
    price: float | str | None = None,
    max_tasks: int | None = None,
    resubmit_uncertain: bool = False,
    **session: Any,
) -> Hub:
    """Start the hub on the head node, or return the running hub with this name.

    The hub outlives this program, and Ray restarts it if it dies. The key comes from the head node's environment. If a
    hub has stopped submitting, for example because the balance was too low, stop it and start it again.

    Args:
        folder: The folder of the journal, on a disk of the head node.
        name: The hub's name in the cluster.
        max_in_flight: The maximum number of tasks in flight, for all workers together.
        submit_rate: The maximum number of submissions per second, for all workers together.
        max_cost: See :class:`EditHub`.
        price: See :class:`EditHub`.
        max_tasks: See :class:`EditHub`.
        resubmit_uncertain: See :class:`EditHub`.
        **session: Other options of :class:`EditSession`. Pass no secrets, because the cluster stores these options.

    Raises:
        ConfigurationError: If Ray or the key is missing, an option is wrong, or the running hub has other options.
        JournalError: If the journal can't be opened.
    """
    if "api_key" in session:
        raise ConfigurationError("the hub takes its key from the head node's environment: leave out api_key")
    limits = {"max_cost": max_cost, "price": price, "max_tasks": max_tasks, "resubmit_uncertain": resubmit_uncertain}
    session |= {"max_in_flight": max_in_flight, "submit_rate": submit_rate}
    given = (str(Path(folder).expanduser().absolute()), limits, session)
    hub = Hub(name, _ray().remote(HubActor).options(name=name, **_LASTING).remote(*given))
    if hub.open() != given:
        raise ConfigurationError(f"the hub {name!r} runs with other options: stop it, or choose another name")
    return hub


def get_hub(name: str = _DEFAULT_NAME) -> Hub:
    """Return the running hub with this name.

    Raises:
        ConfigurationError: If there is no such hub in this cluster, or if Ray is missing.
    """
    try:
        return Hub(name, _ray().get_actor(name, namespace=_NAMESPACE))
    except ValueError:
        raise ConfigurationError(f"there is no hub {name!r} in this cluster: call start_hub") from None


@attrs.frozen
class Hub:
    """A running hub. It can be passed to any process of the cluster."""

    name: str
    _actor: Any = attrs.field(repr=False)

    def __reduce__(self) -> tuple[Callable[[str], Hub], tuple[str]]:
        return get_hub, (self.name,)

    def open(self) -> Any:
        """Open the hub's session and journal unless they are open, and return the actor's arguments."""
        ray = _ray()
        try:
            return ray.get(self._actor.open.remote())
        except ray.exceptions.RayTaskError:  # raised by the actor, which can't open its journal or session
            ray.kill(self._actor)
            raise

    def statistics(self) -> SessionStatistics:
        """Return the counts of the hub's session since the hub was started or restarted."""
        counts: SessionStatistics = _ray().get(self._actor.statistics.remote())
        return counts

    def report(self) -> BatchReport:
        """Write ``report.json``, and return the report on all edits in the journal so far."""
        report: BatchReport = _ray().get(self._actor.report.remote())
        return report

    def stop(self) -> BatchReport:
        """End the hub, and return its report. The next hub with this folder continues the tasks in flight."""
        try:
            report: BatchReport = _ray().get(self._actor.stop.remote())
        finally:
            _ray().kill(self._actor)
        return report

    async def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the actor. If the actor dies, Ray repeats the call."""
        return await getattr(self._actor, method).remote(*arguments)


def _ray() -> Any:
    try:
        import ray  # noqa: PLC0415  # Ray is large
    except ImportError:
        raise ConfigurationError('the hub of a cluster needs Ray: pip install "qwen-edit-async[ray]"') from None
    return ray
