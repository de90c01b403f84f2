"""The session: what users open.

Background work (the poller, the HTTP exchanges of submissions, the streams of ``edit_many``) lives in the host task
that the session starts, not in the task that opened it. So a session can be opened in one notebook cell, used in
others, and closed in a third; nothing that users enter and leave spans a task group or a cancel scope.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self, Unpack

from qwen_edit_async.errors import SessionClosedError
from qwen_edit_async.http.api import AiohttpTransport, Transport
from qwen_edit_async.http.options import (
    API_KEY_VARIABLE,
    BASE_URL_VARIABLE,
    Envelope,
    Timeouts,
    check_headers,
    check_positive,
    resolve_api_key,
    resolve_base_url,
    resolve_protocol,
    resolve_result_hosts,
    resolve_timeouts,
)
from qwen_edit_async.http.secret import Secret
from qwen_edit_async.images.kinds import ImageInput
from qwen_edit_async.models import (
    EditOptions,
    EditParameters,
    EditRequest,
    RequestInput,
    TaskSnapshot,
    TaskStatus,
    request_from_arguments,
    request_from_fields,
)
from qwen_edit_async.protocol.base import check_task_id
from qwen_edit_async.scheduling.learned import Learned
from qwen_edit_async.scheduling.policies import PollPolicy
from qwen_edit_async.session.exchange import SubmissionObserver
from qwen_edit_async.session.results import EditResult, OutputImage
from qwen_edit_async.session.runtime import Host, HostOptions
from qwen_edit_async.session.single import result_of, submit_single, warner
from qwen_edit_async.session.stream import EditStream, Feed
from qwen_edit_async.session.submission import Negotiation
from qwen_edit_async.session.task import EditTask, TaskState
from qwen_edit_async.session.tracking import Tracked
from qwen_edit_async.statistics import SessionStatistics


class EditSession:
    """Edits images with the hosted model, many at once.

    One connection pool, one limit on tasks in flight, one poller that waits for all of them. Use it as ``async with
    EditSession() as session:``, or ``await session.open()`` and ``await session.aclose()``, in whichever tasks or
    notebook cells of one event loop.

    Args:
        api_key: The key; the environment variable ``QWEN_EDIT_API_KEY`` by default. It is sent to ``base_url`` only.
        base_url: The service's address; ``QWEN_EDIT_BASE_URL``, or else the documented host, by default.
        envelope: The form of the request's body: ``"flat"`` (the documented one), ``"params"`` (what some gateways
            want), or ``"auto"``: flat, unless the service refuses the first creation as malformed and takes the other.
        max_in_flight: The most tasks between the start of their submission and their end. If the account allows fewer,
            that is found out and held to.
        submit_rate: The most submissions a second, repeated ones included; no limit by default.
        poll_rate: The most status checks a second, spent on the tasks most likely to have ended; no limit by default.
            With n tasks in flight, none waits over about ``5 * n / poll_rate`` s for a due check, if replies keep up.
        polling: When to check a task's status; a :class:`Learned` of its own by default.
        timeout: Seconds that connecting (at most 10), a piece of the upload, and waiting for a reply may take, each; or
            :class:`Timeouts`.
        deadline: Seconds that an edit may take, from having its slot to its end. Waiting for room, or for its turn,
            does not count as long as the service accepts others. A task whose deadline passed while the machine was
            suspended, or the event loop blocked, is asked for once more before it is given up.
        max_retries: How often a call is repeated that failed for a passing reason. "Too many requests" does not count
            for edits: that is waited out.
        resubmit_uncertain: Whether to submit again if the reply was lost, so that a task may exist already and both
            may be charged.
        strict: Whether to refuse, instead of warning of, text that the service would cut off silently.
        fit: Whether to turn, shrink and re-encode images that the service would refuse, instead of refusing them.
        trust_env: Whether to use the environment's proxies and netrc (may rival the key); neither for http on loopback.
        allow_insecure: Whether the key may travel over http to another machine.
        allow_result_hosts: Hosts, by name or address, from which results are fetched though their addresses are not
            public. Without them that is refused, unless ``base_url`` is such an address (or localhost) itself.
        default_headers: Sent with each call to the service.

    Raises:
        ConfigurationError: If an option or the key is missing or wrong.
    """

    _host: Host | None = None  # also of what `copy` begins to make, and ends with the key
    _closed = False
    _base_url = ""

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        envelope: Envelope = "auto",
        max_in_flight: int = 16,
        submit_rate: float | None = None,
        poll_rate: float | None = None,
        polling: PollPolicy | None = None,
        timeout: float | Timeouts = 60.0,
        deadline: float = 600.0,
        max_retries: int = 2,
        resubmit_uncertain: bool = False,
        strict: bool = False,
        fit: bool = False,
        trust_env: bool = False,
        allow_insecure: bool = False,
        allow_result_hosts: Iterable[str] = (),
        default_headers: Mapping[str, str] | None = None,
    ) -> None:
        try:
            self._api_key: Secret = resolve_api_key(api_key, os.environ.get(API_KEY_VARIABLE))
        finally:
            del api_key  # some tools show a traceback's local variables
        check_positive(deadline, "deadline")
        self._base_url = resolve_base_url(base_url, os.environ.get(BASE_URL_VARIABLE), allow_insecure=allow_insecure)
        self._negotiation = Negotiation(*resolve_protocol(envelope))
        self._default_headers = check_headers(default_headers)
        self._deadline = deadline
        self._strict = strict
        self._fit = fit
        self._options = HostOptions(
            max_in_flight=max_in_flight,
            submit_rate=submit_rate,
            poll_rate=poll_rate,
            polling=polling if polling is not None else Learned(),
            timeouts=resolve_timeouts(timeout),
            max_retries=max_retries,
            resubmit_uncertain=resubmit_uncertain,
            result_hosts=resolve_result_hosts(self._base_url, allow_result_hosts),
            trust_env=trust_env,
        )

    async def open(self) -> Self:
        """Open the session on the running event loop; ``async with`` does this.

        Raises:
            SessionClosedError: If it was opened before.
        """
        if self._host is not None or self._closed:
            raise SessionClosedError("a session can be opened once: make another")
        self._host = Host(self._make_transport(), self._negotiation, self._options)
        try:
            await self._host.start()
        except BaseException:  # a cancellation too, and raised on: what was opened by half is never used
            self._closed = True
            raise
        return self

    async def aclose(self) -> None:
        """Close the session, once what somebody still awaits has ended; closing twice does nothing.

        Tasks that nobody awaits are not waited for: they run on at the service, and :attr:`unfinished` has their ids.
        """
        await self._close(cancel=False)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close(cancel=error is not None)

    async def edit(
        self,
        images: ImageInput | Sequence[ImageInput] | EditRequest,
        instruction: str | None = None,
        *,
        parameters: EditParameters | None = None,
        key: str | None = None,
        deadline: float | None = None,
        **options: Unpack[EditOptions],
    ) -> EditResult:
        """Edit one to three pictures, and wait for the result.

        Args:
            images: One image, or a sequence of one to three (a path, an http(s) URL, a data URI, bytes, a binary file,
                a PIL image, or a uint8 array), or a whole :class:`EditRequest`.
            instruction: What to do, in Chinese or English, at most 800 characters.
            parameters: How to do it; ``options`` go before it.
            key: A name of your own, which names the saved files.
            deadline: Seconds from having a slot to the end; the session's by default.
            options: The fields of :class:`EditParameters`.

        Raises:
            InvalidEditError: If the contract makes it an error; nothing was sent.
            EditFailedError: If the service ran the task, and it failed.
            DeadlineExceededError: If it took too long; the error has the task's id, if there is one.
            SubmitUncertainError: If a task may exist, but its id never came.
            APIStatusError: If the service refused.
            APIConnectionError: If the service could not be reached.
            SessionClosedError: If the session is not open.
        """
        host = self._require_open()
        task = await self.submit(images, instruction, parameters=parameters, key=key, deadline=deadline, **options)
        return await result_of(host, task)

    async def submit(
        self,
        images: ImageInput | Sequence[ImageInput] | EditRequest,
        instruction: str | None = None,
        *,
        parameters: EditParameters | None = None,
        key: str | None = None,
        deadline: float | None = None,
        observer: SubmissionObserver | None = None,
        **options: Unpack[EditOptions],
    ) -> EditTask:
        """Submit an edit, and return its handle as soon as the service has accepted it.

        Waits for a slot first. Arguments and errors are those of :meth:`edit`, up to the acceptance; ``observer`` is
        told of each attempt before it is sent, and of its fate.
        """
        host = self._require_open()
        request = request_from_arguments(images, instruction, parameters, key, options)
        return await submit_single(
            host, request, self._deadline_of(deadline), observer, strict=self._strict, fit=self._fit
        )

    def attach(self, task_id: str, *, deadline: float | None = None) -> EditTask:
        """The handle of a task that was submitted elsewhere, or earlier: ``result = await session.attach(task_id)``.

        It takes no slot. A task that this session already waits for has one handle. Of thousands with one deadline,
        some that end shortly before it may be given up as if they ran: at most 64 checks are under way at once.

        Args:
            task_id: The id that the service gave out.
            deadline: Seconds from now to the end; the session's by default.

        Raises:
            InvalidEditError: If that can't be a task's id.
            SessionClosedError: If the session is not open.
        """
        host = self._require_open()
        if (known := host.tracker.get(check_task_id(task_id))) is not None:
            return known
        now = host.loop.time()
        return host.track(
            Tracked(
                task_id=task_id,
                since=now,
                attached=True,
                deadline=now + self._deadline_of(deadline),
                state=TaskState(TaskSnapshot(task_id=task_id, status=TaskStatus.UNKNOWN), host.engage),
            )
        )

    def pictures(self, task_id: str, urls: Iterable[str]) -> tuple[OutputImage, ...]:
        """The result pictures of a task whose URLs are known from earlier; one that has expired is renewed when needed.

        Args:
            task_id: The id that the service gave out.
            urls: All of the task's result URLs, in their order; empty text keeps the place of one that has none.

        Raises:
            InvalidEditError: If that can't be a task's id.
            SessionClosedError: If the session is not open.
        """
        host = self._require_open()
        check_task_id(task_id)
        places = enumerate(urls)
        return tuple(OutputImage(url=url, task_id=task_id, index=index, store=host) for index, url in places if url)

    async def status(self, task_id: str) -> TaskSnapshot:
        """Ask the service about a task, now: ``poll_rate`` is the ceiling of the session's own checks, not of these.

        Raises:
            InvalidEditError: If that can't be a task's id.
            NotFoundError: If the service knows no such task.
            APIStatusError: If the service refuses to tell.
            APIConnectionError: If the service could not be reached.
            SessionClosedError: If the session is not open.
        """
        return await self._require_open().check_persistently(check_task_id(task_id))

    def edit_many(
        self,
        requests: Iterable[RequestInput] | AsyncIterable[RequestInput],
        *,
        ordered: bool = False,
        deadline: float | None = None,
    ) -> EditStream:
        """Edit many, and loop over the outcomes as they come: ``async for outcome in session.edit_many(requests)``.

        Requests are pulled as slots become free, so that the input may be endless: never more than ``max_in_flight`` of
        them are alive, in flight or waiting for the loop. An edit that fails, an invalid one too, is an outcome with an
        error. Leaving the loop stops submitting at once and cancels what is in flight.

        Args:
            requests: :class:`EditRequest`, or mappings with their fields and those of :class:`EditParameters`.
            ordered: Whether outcomes come in the order of the input, not as they complete.
            deadline: Seconds for each edit from having a slot to its end; the session's by default.

        Raises:
            SessionClosedError: If the session is not open.
        """
        host = self._require_open()
        self._deadline_of(deadline)
        return EditStream(
            functools.partial(
                Feed,
                requests,
                functools.partial(self._edit_input, deadline, warner()),
                host.spawn,
                on_unclaimed=host.tracker.unclaimed,
                window=self._options.max_in_flight,
                ordered=ordered,
            )
        )

    @property
    def is_open(self) -> bool:
        """Whether it can be used, on the event loop on which it was opened."""
        return self._host is not None and not self._closed

    @property
    def max_in_flight(self) -> int:
        """The most tasks between the start of their submission and their end."""
        return self._options.max_in_flight

    def statistics(self) -> SessionStatistics:
        """A snapshot of everything that the session counts."""
        return self._host.statistics() if self._host is not None else SessionStatistics()

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Ids that the service gave out and whose result nobody of this session has got, also once it is closed.

        Their tasks are waited for, or were given up: cancelled, past their deadline, not awaited when the session
        closed, or completed when the loop of ``edit_many`` had been left. ``attach`` gets the result of each.
        Of the ids that were given up, the newest 10,000 are kept. The log names each older one as it is dropped.
        """
        return self._host.tracker.unfinished if self._host is not None else ()

    def __repr__(self) -> str:
        if self._closed:
            state = "closed"
        elif self._host is None:
            state = "not open"
        else:
            counts = self._host.statistics()
            state = f"open, {counts.in_flight} in flight, {counts.waiting} waiting"
        return f"<EditSession {self._base_url} {state}>"

    def __del__(self) -> None:
        if self._host is not None and not self._closed:
            self._host.warn_unclosed()

    def _make_transport(self) -> Transport:
        return AiohttpTransport(
            self._base_url,
            self._api_key,
            self._options.timeouts,
            default_headers=self._default_headers,
            trust_env=self._options.trust_env,
        )

    def _require_open(self) -> Host:
        if self._closed:
            raise SessionClosedError("the session is closed: make another")
        if self._host is None:
            raise SessionClosedError("the session is not open: use `async with`, or await session.open()")
        self._host.require_running()
        return self._host

    async def _close(self, *, cancel: bool) -> None:
        if self._host is not None:
            self._host.require_own_loop()
        closing, self._closed = self._closed, True
        if self._host is None:
            return
        if closing:
            await self._host.wait_closed()
        else:
            await self._host.close(cancel=cancel)

    def _deadline_of(self, deadline: float | None) -> float:
        if deadline is None:
            return self._deadline
        check_positive(deadline, "deadline")
        return deadline

    async def _edit_input(
        self, deadline: float | None, warn: Callable[[str], None], request: RequestInput
    ) -> EditResult:
        if not isinstance(request, EditRequest):
            request = request_from_fields(request)
        host, seconds = self._require_open(), self._deadline_of(deadline)
        task = await submit_single(host, request, seconds, strict=self._strict, fit=self._fit, warn=warn)
        return await result_of(host, task)
