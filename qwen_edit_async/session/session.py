"""The session that users open to edit images."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from random import Random
from ssl import SSLContext
from typing import Self, Unpack, overload

from qwen_edit_async.events import EditEvent
from qwen_edit_async.http import options as http
from qwen_edit_async.http.api import AiohttpTransport, Transport
from qwen_edit_async.http.network import Network, resolve_proxy, resolve_ssl
from qwen_edit_async.http.options import Timeouts
from qwen_edit_async.images.kinds import ImageInputs
from qwen_edit_async.models import EditKeywords, EditParameters, EditRequest, RequestInput, request_from_arguments
from qwen_edit_async.protocol.base import check_task_id
from qwen_edit_async.protocol.choice import EnvelopeOption, Forms, ProtocolName, choose_protocol
from qwen_edit_async.scheduling.learned import Learned
from qwen_edit_async.scheduling.policies import PollPolicy
from qwen_edit_async.scheduling.retry import RetryPolicy
from qwen_edit_async.session.observer import CallSite, SubmissionObserver, SubmitKeywords
from qwen_edit_async.session.options import Limits, Options
from qwen_edit_async.session.results import EditResult, OutputImage, pictures_of
from qwen_edit_async.session.runtime import SessionState
from qwen_edit_async.session.stream import EditPipeline, EditStream
from qwen_edit_async.session.task import EditTask
from qwen_edit_async.statistics import SessionStatistics
from qwen_edit_async.tasks import Estimate, TaskSnapshot


class EditSession:
    """Edits images with the hosted model, many at once.

    Use ``async with EditSession() as session:``. Or call ``await session.open()`` and ``await session.aclose()`` in any
    tasks or notebook cells of one event loop.

    Args:
        api_key: The key; by default the environment variable ``QWEN_EDIT_API_KEY``. It is sent only to ``base_url``.
        base_url: The service's address; by default ``QWEN_EDIT_BASE_URL``, or else the protocol's own host.
        protocol: ``"generation"`` (documented), ``"queue"`` (newer, on the same gateway) or ``"dashscope"`` (Alibaba
            Model Studio, whose key may be in ``DASHSCOPE_API_KEY``). ``QWEN_EDIT_PROTOCOL`` can set another default.
        model: The service's name for the model. The default depends on the protocol.
        envelope: The layout of a ``"generation"`` body: ``"flat"`` (documented), ``"params"`` (nested more deeply),
            ``"header"`` (flat, with the model only in ``X-Model``), or ``"auto"`` (``"flat"``, then ``"params"``).
        max_in_flight: The maximum number of tasks in flight. If the account allows fewer, the session learns the limit.
        submit_rate: The maximum number of submissions per second, including repeated ones; by default no limit.
        poll_rate: The maximum number of status checks per second; by default no limit. Tasks that are most likely done
            are checked first. With n tasks in flight, a check starts at most about ``5 * n / poll_rate`` s late.
        polling: The policy that decides when to check a task. Each session has its own :class:`Learned` by default.
        timeout: Seconds for each of three phases: connecting (at most 10), sending the next piece of an upload, and
            waiting for a reply. Give :class:`Timeouts` to set the phases separately.
        deadline: Seconds that an edit may take, from taking its slot to its end. A submission's waits for a
            rate limit, a Retry-After pause or another slot do not count, unless the service accepts no edit for
            ``deadline`` seconds. A last status check may take 30 s more.
        max_retries: The maximum number of retries after temporary failures. Retries after 429 do not count.
        resubmit_uncertain: Whether to submit an edit again, and risk a second charge, if a reply was lost or unclear.
        strict: Whether to raise an error instead of a warning if the service would silently cut off text.
        fit: Whether to turn, shrink and re-encode images that the service would refuse.
        inline: Whether to read images in buckets and send their content. By default, the service fetches them from
            presigned URLs, unless ``fit`` is set or the store can't presign URLs.
        ssl: The TLS settings of all connections: an :class:`ssl.SSLContext`, or the path of a file with CA certificates
            to trust instead of the system's. ``False`` is refused. By default, ``SSL_CERT_FILE`` can name such a file.
        proxy: The HTTP proxy of all connections, except for http on loopback: ``"http://[USER:PASSWORD@]HOST:PORT"``.
        trust_env: Whether to use the environment's proxies and netrc file. Neither is used for http on loopback.
        allow_insecure: Whether the key may be sent over http to another machine.
        allow_result_hosts: Hosts from which results are downloaded even if the hosts' addresses are not public. If
            ``base_url`` is localhost or an address that is not public, all hosts are allowed.
        default_headers: Headers to send with each call to the service.
        on_event: Called with an :class:`EditEvent` when an edit is submitted, throttled or retried, changes its state,
            or ends. It must be quick. It sees the submitting code's context variables. Its errors are only logged.
        transport: The HTTP client to use instead of the session's own, for tests without sockets.
        random: The source of the jitter between retries, for reproducible tests.

    Raises:
        ConfigurationError: If an option or the key is missing or wrong.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        protocol: ProtocolName | None = None,
        model: str | None = None,
        envelope: EnvelopeOption = "auto",
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
        inline: bool = False,
        ssl: SSLContext | str | os.PathLike[str] | None = None,
        proxy: str | None = None,
        trust_env: bool = False,
        allow_insecure: bool = False,
        allow_result_hosts: Iterable[str] = (),
        default_headers: Mapping[str, str] | None = None,
        on_event: Callable[[EditEvent], object] | None = None,
        transport: Transport | None = None,
        random: Random | None = None,
    ) -> None:
        self._state, self._base_url = SessionState(), ""  # first, because `__repr__` also runs if `__init__` fails
        try:
            forms = Forms(*choose_protocol(protocol, envelope, model, os.environ.get(http.PROTOCOL_VARIABLE)))
            key = http.resolve_api_key(api_key, forms.protocol, os.environ)
            network = Network(ssl=resolve_ssl(ssl), proxy=resolve_proxy(proxy), trust_env=trust_env)
        finally:
            del api_key, proxy  # some tools show the local variables of a traceback
        self._limits = Limits(deadline=deadline, max_retries=max_retries)
        named_url = os.environ.get(http.BASE_URL_VARIABLE)
        self._base_url = http.resolve_base_url(base_url, named_url, forms.protocol, allow_insecure=allow_insecure)
        self._forms = forms
        self._options = Options(
            max_in_flight=max_in_flight,
            submit_rate=submit_rate,
            poll_rate=poll_rate,
            polling=polling if polling is not None else Learned(),
            timeouts=http.resolve_timeouts(timeout),
            retry=RetryPolicy(max_retries=max_retries),
            resubmit_uncertain=resubmit_uncertain,
            strict=strict,
            fit=fit,
            inline=inline,
            result_hosts=http.resolve_result_hosts(self._base_url, allow_result_hosts),
            network=network,
            on_event=on_event,
            random=random if random is not None else Random(),  # noqa: S311  # jitter is not a secret
        )
        headers, timeouts = http.check_headers(default_headers), self._options.timeouts
        own = AiohttpTransport(self._base_url, key, timeouts, default_headers=headers, network=network)
        self._transport: Transport = transport if transport is not None else own

    async def open(self) -> Self:
        """Open the session on the running event loop; ``async with`` does this.

        Raises:
            SessionClosedError: If the session was opened before.
        """
        await self._state.open(self._transport, self._forms, self._options)
        return self

    async def aclose(self) -> None:
        """Wait for the calls that are still awaited, and close the session. A closed session can be closed again.

        Tasks that nobody awaits continue at the service; see :attr:`unfinished`.
        """
        await self._state.close(cancel=False)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._state.close(cancel=kind is not None)

    @overload
    async def edit(self, images: EditRequest, *, deadline: float | None = None) -> EditResult: ...

    @overload
    async def edit(self, images: ImageInputs, instruction: str, **options: Unpack[EditKeywords]) -> EditResult: ...

    async def edit(
        self,
        images: ImageInputs | EditRequest,
        instruction: str | None = None,
        *,
        n: int | None = None,
        negative_prompt: str | None = None,
        size: str | tuple[int, int] | None = None,
        prompt_extend: bool | None = None,
        watermark: bool | None = None,
        seed: int | None = None,
        parameters: EditParameters | None = None,
        key: str | None = None,
        deadline: float | None = None,
    ) -> EditResult:
        """Edit one to three images, and wait for the result. An option that is ``None`` is left to the service.

        Args:
            images: One image, or a sequence of one to three. An image is a path, an http(s) URL, a data URI, bytes, a
                binary file, a PIL image, a uint8 array, or a bucket's URL such as ``s3://photos/cat.jpg``. With an
                :class:`EditRequest`, the only other argument is ``deadline``.
            instruction: The change to make, in Chinese or English, at most 800 characters.
            n: The number of output images, 1 to 6.
            negative_prompt: Content to avoid, at most 500 characters.
            size: The width and height of the output in pixels, each 512 to 2048: ``"1024*1536"`` or ``(1024, 1536)``.
            prompt_extend: Whether the service rewrites the instruction.
            watermark: Whether the service writes "Qwen-Image" into the bottom-right corner.
            seed: An integer from 0 to 2147483647. Results with the same seed are similar.
            parameters: All options from ``n`` to ``seed`` in one value. An option given separately takes priority.
            key: Your name for the edit. Saved files are named after it.
            deadline: Seconds from taking a slot to the end of the edit; by default the session's.

        Raises:
            InvalidEditError: If the edit breaks the documented contract. Nothing was sent.
            EditFailedError: If the service ran the task, and it failed.
            DeadlineExceededError: If the edit took too long. The error has the task's id, if there is one.
            SubmitUncertainError: If a task may exist, but its id never arrived.
            APIStatusError: If the service refused the edit.
            APIConnectionError: If the service could not be reached.
            SessionClosedError: If the session is not open.
        """
        options: EditKeywords = {"n": n, "negative_prompt": negative_prompt, "size": size, "seed": seed}
        options |= {"prompt_extend": prompt_extend, "watermark": watermark, "parameters": parameters, "key": key}
        request = request_from_arguments(images, instruction, options)
        task = await self._state.require_open().submitter.submit(request, self._limits.changed(deadline))
        try:
            return await task
        except asyncio.CancelledError as cancelled:
            cancelled.add_note(task.cancel_unless_awaited())
            raise

    @overload
    async def submit(
        self, images: EditRequest, *, deadline: float | None = None, observer: SubmissionObserver | None = None
    ) -> EditTask: ...

    @overload
    async def submit(self, images: ImageInputs, instruction: str, **options: Unpack[SubmitKeywords]) -> EditTask: ...

    async def submit(
        self,
        images: ImageInputs | EditRequest,
        instruction: str | None = None,
        *,
        n: int | None = None,
        negative_prompt: str | None = None,
        size: str | tuple[int, int] | None = None,
        prompt_extend: bool | None = None,
        watermark: bool | None = None,
        seed: int | None = None,
        parameters: EditParameters | None = None,
        key: str | None = None,
        deadline: float | None = None,
        observer: SubmissionObserver | None = None,
    ) -> EditTask:
        """Wait for a slot, submit an edit, and return its task as soon as the service has accepted the edit.

        Arguments are those of :meth:`edit`. The errors are those of :meth:`edit` that occur before the service accepts
        the edit. ``observer`` is called before and after each attempt.
        """
        options: EditKeywords = {"n": n, "negative_prompt": negative_prompt, "size": size, "seed": seed}
        options |= {"prompt_extend": prompt_extend, "watermark": watermark, "parameters": parameters, "key": key}
        request = request_from_arguments(images, instruction, options)
        return await self._state.require_open().submitter.submit(request, self._limits.changed(deadline), observer)

    @overload
    async def estimate(self, images: EditRequest, *, deadline: float | None = None) -> Estimate: ...
    @overload
    async def estimate(self, images: ImageInputs, instruction: str, **options: Unpack[EditKeywords]) -> Estimate: ...
    async def estimate(
        self, images: ImageInputs | EditRequest, instruction: str | None = None, **options: Unpack[EditKeywords]
    ) -> Estimate:
        """Request the price of an edit. The images are sent, but no task is created or charged.

        Arguments and errors are those of :meth:`edit`. Two more errors are possible:

        Raises:
            ConfigurationError: If the protocol has no prices. Only ``"generation"`` has them.
            NotFoundError: If this gateway has no call for prices.
        """
        limits = self._limits.changed(options.pop("deadline", None))
        request = request_from_arguments(images, instruction, options)
        return await self._state.require_open().estimate(request, limits)

    def attach(self, task_id: str, *, deadline: float | None = None) -> EditTask:
        """Watch a task that was submitted elsewhere or earlier: ``result = await session.attach(task_id)``.

        The task does not take a slot. If the session already watches the task, the same :class:`EditTask` is returned.

        Args:
            task_id: The id that the service gave to the task.
            deadline: Seconds from now to the end of the wait; by default the session's.

        Raises:
            InvalidEditError: If ``task_id`` can't be the id of a task.
            SessionClosedError: If the session is not open.
        """
        poller = self._state.require_open().poller
        return poller.attach(check_task_id(task_id), self._limits.changed(deadline).deadline)

    def pictures(self, task_id: str, urls: Iterable[str]) -> tuple[OutputImage, ...]:
        """Return the result pictures of a task whose result URLs are known. The errors are those of :meth:`attach`.

        Args:
            task_id: The id that the service gave to the task.
            urls: All result URLs in order; ``""`` for a missing URL. If :attr:`has_tasks` is true, an expired URL is
                renewed when its picture is downloaded.
        """
        return pictures_of(check_task_id(task_id), urls, self._state.require_open())

    async def status(self, task_id: str) -> TaskSnapshot:
        """Check the status of a task now. The session's ``poll_rate`` does not limit these checks.

        Raises:
            NotFoundError: If the service does not know the task.
            QwenEditError: If the check fails for another reason. See the errors of :meth:`edit`.
        """
        return await self._state.require_open().status(check_task_id(task_id), self._limits.max_retries)

    def edit_many(
        self,
        requests: Iterable[RequestInput] | AsyncIterable[RequestInput],
        *,
        ordered: bool = False,
        deadline: float | None = None,
    ) -> EditStream:
        """Run many edits: ``async for outcome in session.edit_many(requests)`` yields outcomes as edits end.

        Requests are pulled as outcomes are fetched, so the input may be endless. A failed or invalid edit gives an
        outcome with an error. Leaving the loop gives up edits in flight. At most ``max_in_flight`` edits are in memory.

        Args:
            requests: :class:`EditRequest` objects, or mappings with its fields and those of :class:`EditParameters`.
            ordered: Whether outcomes come in the order of the input.
            deadline: Seconds for each edit, from taking a slot to its end; by default the session's.

        Raises:
            SessionClosedError: If the session is not open.
        """
        submitter = self._state.require_open().submitter
        limits, call_site = self._limits.changed(deadline), CallSite.of_caller()
        return EditStream(EditPipeline(requests, submitter, limits, call_site, ordered))

    def with_options(self, *, deadline: float | None = None, max_retries: int | None = None) -> Self:
        """Return a second session with other limits: ``await session.with_options(max_retries=0).edit(…)``.

        Both sessions share everything else: connections, slots, the poller, :meth:`statistics`. Opening or closing
        one of them opens or closes both. Downloads keep the original ``max_retries``. ``None`` keeps a limit.

        Raises:
            ConfigurationError: If an option is wrong.
        """
        session = copy.copy(self)
        session._limits = self._limits.changed(deadline, max_retries)  # noqa: SLF001  # an attribute of this class
        return session

    @property
    def is_open(self) -> bool:
        """Whether the session is open. It can be used only on the event loop on which it was opened."""
        return self._state.runtime is not None and not self._state.closed

    def require_open(self) -> None:
        """Raise :class:`SessionClosedError` unless the session is open on the running event loop."""
        self._state.require_open()

    @property
    def base_url(self) -> str:
        """The address of the service."""
        return self._base_url

    @property
    def has_tasks(self) -> bool:
        """Whether :meth:`attach` and :meth:`status` work. They do not work with ``dashscope``."""
        return self._forms.protocol.has_tasks

    @property
    def reply_grace(self) -> float:
        """The seconds that closing the session waits for the replies to sent submissions."""
        return self._forms.protocol.reply_grace

    @property
    def fit(self) -> bool:
        """Whether to turn, shrink and re-encode images that the service would refuse."""
        return self._options.fit

    @property
    def max_in_flight(self) -> int:
        """The maximum number of tasks in flight, from the start of their submission to their end."""
        return self._options.max_in_flight

    def statistics(self) -> SessionStatistics:
        """Return a copy of the session's counts."""
        return self._state.runtime.statistics() if self._state.runtime is not None else SessionStatistics()

    @property
    def unfinished(self) -> tuple[str, ...]:
        """The ids of watched tasks, given-up tasks, and tasks whose results ``edit`` or ``edit_many`` did not deliver.

        A task is given up if it is cancelled, its deadline passes, a check is refused, or the session or ``edit_many``
        loop ends first. The newest 10,000 unwatched tasks are kept, even after closing.
        """
        return self._state.runtime.poller.unfinished if self._state.runtime is not None else ()

    def __repr__(self) -> str:
        counts = self.statistics()
        state = f"open, {counts.in_flight} in flight, {counts.waiting} waiting" if self._state.runtime else "not open"
        return f"<EditSession {self._base_url} {'closed' if self._state.closed else state}>"
