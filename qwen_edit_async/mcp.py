"""A Model Context Protocol server for agents that edit pictures: ``qwen-edit mcp`` (extra ``mcp``).

The server uses standard input and output, and offers the tools ``edit_image``, ``edit_folder`` and ``get_task``.
Environment variables limit the server:

- ``QWEN_EDIT_MCP_FOLDER`` is the only folder in which the server reads and writes files.
- ``QWEN_EDIT_MCP_MAX_COST`` is the most that the server may spend in total until it exits, in the account's currency.
- ``QWEN_EDIT_MCP_PRICE`` is the price of a picture. It is needed only if the service does not state prices.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import attrs
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from qwen_edit_async import (
    APIStatusError,
    BatchReport,
    ConfigurationError,
    EditBatch,
    EditFailedError,
    EditParameters,
    EditRequest,
    EditResult,
    EditSession,
    EditTask,
    QwenEditError,
    SubmitUncertainError,
)
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.batch.price import price_of_picture
from qwen_edit_async.batch.rules.budget import to_money
from qwen_edit_async.batch.sources.read import is_table
from qwen_edit_async.contract import MAX_N
from qwen_edit_async.display.thumbnails import make_thumbnail
from qwen_edit_async.files import safe_stem
from qwen_edit_async.images.kinds import is_url
from qwen_edit_async.version import __version__

FOLDER_VARIABLE: Final = "QWEN_EDIT_MCP_FOLDER"
MAX_COST_VARIABLE: Final = "QWEN_EDIT_MCP_MAX_COST"
PRICE_VARIABLE: Final = "QWEN_EDIT_MCP_PRICE"

_PROGRESS_SECONDS: Final = 1.0


@attrs.define
class Allowance:
    """The money that the server may still spend. An edit reserves its cost before it starts.

    Attributes:
        left: The amount that is neither spent nor reserved.
        price: The highest known price of a picture; ``None`` until a price is known.
    """

    left: Decimal
    price: Decimal | None = None

    def reserve(self, amount: Decimal) -> Decimal:
        """Reserve an amount, and return it.

        Raises:
            ToolError: Not enough is left.
        """
        if amount > self.left or self.left <= 0:
            advice = f"wait until other edits have ended, or ask the user to raise {MAX_COST_VARIABLE}"
            if self.left <= 0 and self.price is None:  # an edit with an unknown price and cost uses the whole cap
                advice += f" and to set {PRICE_VARIABLE} to the price of a picture"
            raise ToolError(f"the spending cap does not allow this edit ({self.left} left, {amount} needed): {advice}")
        self.left -= amount
        return amount

    def settle(self, reserved: Decimal, cost: Decimal | None, pictures: int) -> None:
        """Replace a reservation with the actual cost. If the cost is unknown, the reservation counts as spent."""
        if cost is None:
            return
        self.left += reserved - cost
        if pictures and cost:
            self.price = max(self.price or Decimal(0), cost / pictures)


@attrs.frozen
class ServerState:
    """The session, the folder and the allowance of a server, and a lock for edits whose price is not known."""

    session: EditSession
    folder: Path
    allowance: Allowance
    _alone: anyio.Lock = attrs.field(factory=anyio.Lock)

    def inside(self, path: str) -> Path:
        """Resolve a path against the folder, and check that it is inside the folder.

        Raises:
            ToolError: The path leads out of the folder, or is a URL or invalid.
        """
        if "://" in path:
            raise ToolError(f"{path!r} is a URL: use a path inside {self.folder}")
        try:
            full = (self.folder / path).resolve()
        except (OSError, ValueError) as error:
            raise ToolError(f"{path!r} is not a path ({error}): use a path inside {self.folder}") from None
        if not full.is_relative_to(self.folder):
            raise ToolError(f"{path!r} is outside of {self.folder}: use a path inside it")
        return full

    def pictures_in(self, folder: str, *, recursive: bool) -> Path:
        """Return a folder of pictures inside the folder of the server.

        Raises:
            ToolError: The path is not a folder, or one of the folder's links leads out of the server's folder.
                A folder of Parquet files is refused too, because their rows could name any file and any number of
                pictures.
        """
        full = self.inside(folder)
        if not full.is_dir() or is_table(full):
            raise ToolError(f"{folder!r} is not a folder of pictures: give a folder of pictures")
        for path in full.rglob("*") if recursive else full.iterdir():
            if path.is_symlink():
                self.inside(str(path))
        return full

    async def price(self, parameters: EditParameters | None = None) -> Decimal:
        """Return the price of a picture with these parameters, or the highest known price, whichever is higher.

        Raises:
            ToolError: The service does not state the price, and no price is known.
        """
        known = self.allowance.price
        try:
            stated = (await price_of_picture(self.session, parameters)).cost
        except QwenEditError as error:
            if known is not None:
                return known
            advice = f"the user can set {PRICE_VARIABLE} to the price of a picture, and restart the server"
            raise ToolError(f"the price of a picture is unknown ({error.summary}): {advice}") from None
        return max(stated, known or Decimal(0))

    @contextlib.asynccontextmanager
    async def reserved(self, parameters: EditParameters, pictures: int) -> AsyncGenerator[Decimal, None]:
        """Reserve the cost of an edit, and yield the amount. The caller settles the amount before the block ends.

        While no price above 0 is known, an edit reserves the whole allowance, and other edits wait for its end.

        Raises:
            ToolError: The price is unknown, or not enough is left.
        """
        price = await self.price(parameters)
        async with contextlib.nullcontext() if price else self._alone:
            price = price or self.allowance.price or Decimal(0)  # the edit before this one may have revealed the price
            yield self.allowance.reserve(price * pictures or self.allowance.left)


def make_server(environment: Mapping[str, str], **session: Any) -> MCPServer[ServerState]:
    """Create the server. Pass any options of :class:`EditSession` by keyword.

    Raises:
        ConfigurationError: An environment variable is missing or invalid.
    """
    folder = Path(_required(environment, FOLDER_VARIABLE)).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigurationError(f"{FOLDER_VARIABLE} is {str(folder)!r}: create that folder, or set another folder")
    allowance = Allowance(
        to_money(_required(environment, MAX_COST_VARIABLE), MAX_COST_VARIABLE) or Decimal(0),
        to_money(environment.get(PRICE_VARIABLE) or None, PRICE_VARIABLE) or None,  # a price of 0 limits nothing
    )
    client = EditSession(**session)

    @contextlib.asynccontextmanager
    async def open_session(_: MCPServer[ServerState]) -> AsyncGenerator[ServerState, None]:
        async with client:
            yield ServerState(client, folder, allowance)

    server = MCPServer("qwen-edit", version=__version__, lifespan=open_session)
    for tool in (edit_image, edit_folder, get_task):
        server.tool(structured_output=False)(tool)
    return server


async def edit_image(  # noqa: PLR0917  # agents pass arguments by name
    context: Context[ServerState],
    images: list[str],
    instruction: str,
    output: str = "edited",
    n: int = 1,
    size: str | None = None,
    negative_prompt: str | None = None,
    seed: int | None = None,
) -> list[Any]:
    """Edit one to three pictures together, and save the results. This costs money.

    Args:
        context: The context of the call.
        images: Paths in the allowed folder, or http(s) URLs. Without `size`, the last image sets the aspect ratio.
        instruction: The change to make, in Chinese or English, at most 800 characters.
        output: The folder for the results, inside the allowed folder.
        n: The number of results, 1 to 6.
        size: Width and height in pixels, each 512 to 2048, such as "1024*1536".
        negative_prompt: Content to avoid.
        seed: A number from 0 to 2147483647. Results with the same seed are similar.
    """
    state = context.request_context.lifespan_context
    inputs = [image if is_url(image) else state.inside(image) for image in images]
    folder = state.inside(output)
    with _tool_errors(state.session):
        parameters = EditParameters(n=n, size=size, negative_prompt=negative_prompt, seed=seed)
        await anyio.Path(folder).mkdir(parents=True, exist_ok=True)  # if this fails, nothing has been paid
        result = await _edit(context, EditRequest(inputs, instruction, parameters), n)
        try:
            paths = await result.save(folder)
        except OSError as error:
            found = f"task {result.task_id} is completed, but its pictures could not be saved ({error})"
            raise ToolError(f"{found}: solve this problem, and call get_task") from None
    facts = {"task_id": result.task_id, "files": [*map(str, paths)], "cost": _amount(result.usage.cost)}
    previews = [await anyio.to_thread.run_sync(make_thumbnail, path) for path in paths]
    return [json.dumps(facts | {"notes": result.notes}), *(Image(data=p.content, format="webp") for p in previews if p)]


async def _edit(context: Context[ServerState], request: EditRequest, pictures: int) -> EditResult:
    state = context.request_context.lifespan_context
    async with state.reserved(request.parameters, pictures) as reserved:
        cost = None
        try:
            result = await _result_of(await state.session.submit(request), context)
            cost = result.usage.cost
        except QwenEditError as error:
            if isinstance(error, EditFailedError):
                cost = error.cost or Decimal(0)
            elif not (error.task_id or isinstance(error, SubmitUncertainError)):
                cost = Decimal(0)
            raise
        except anyio.get_cancelled_exc_class() as cancelled:
            if not getattr(cancelled, "__notes__", ()):  # a note would name the task that exists or may exist
                cost = Decimal(0)
            raise
        finally:
            state.allowance.settle(reserved, cost, pictures)
    return result


async def _result_of(task: EditTask, context: Context[ServerState]) -> EditResult:
    """Wait for the result of a task. Report each change of its status. MCP requires rising numbers in the reports."""
    changes, reported = 0, ""
    try:
        async for snapshot in task.updates():
            share = "" if snapshot.progress is None else f", {snapshot.progress:.0%} done"
            message = f"task {task.id}: {snapshot.status.value}{share}"
            if message != reported:
                await context.report_progress(changes, message=message)
                changes, reported = changes + 1, message
        return await task
    except anyio.get_cancelled_exc_class() as cancelled:
        cancelled.add_note(task.cancel_unless_awaited())
        raise


async def edit_folder(
    context: Context[ServerState], folder: str, instruction: str, output: str = "edited", *, recursive: bool = False
) -> str:
    """Edit the pictures of a folder, within the spending cap. This costs money.

    To continue an interrupted run, repeat the call.

    Args:
        context: The context of the call.
        folder: The folder, inside the allowed folder.
        instruction: The change to make, in Chinese or English, at most 800 characters.
        output: The folder for the results, inside the allowed folder.
        recursive: Whether to include the pictures of subfolders.
    """
    state = context.request_context.lifespan_context
    target = state.inside(output)
    source = await anyio.to_thread.run_sync(partial(state.pictures_in, folder, recursive=recursive))
    options: dict[str, Any] = {"instruction": instruction, "recursive": recursive}
    with _tool_errors(state.session):
        batch, price = EditBatch(source, target, **options), await state.price()
        plan, before = await batch.plan(), await _costs(batch, target, price)
        reserved = max(state.allowance.left, Decimal(0))  # all that is left
        state.allowance.left -= reserved
        # If the service states a price of 0, only the actual costs can limit the run.
        affordable = {"max_tasks": plan.tasks + int(reserved / price)} if price else {"max_cost": plan.spent + reserved}
        batch = EditBatch(source, target, **options | affordable)
        try:
            report = await _run(batch, state.session, context)
        finally:
            with anyio.CancelScope(shield=True):
                # If the run could not begin, the journal may belong to another call, which counts its own costs.
                after = await _costs(batch, target, price) if batch.progress.begun else before
            state.allowance.settle(reserved, after - before, 0)
    return attrs.evolve(report, limit=report.limit and MAX_COST_VARIABLE).text()


async def _costs(batch: EditBatch, target: Path, price: Decimal) -> Decimal:
    """Return the costs of a batch. An edit that may be charged counts as ``price`` until its cost is known."""
    costs = Decimal(0)
    if not await anyio.Path(target / JOURNAL_NAME).exists():
        return costs
    async for outcome in batch.outcomes():
        if outcome.cost is not None:
            costs += outcome.cost
        elif outcome.status not in {"planned", "failed"}:
            costs += price
    return costs


async def _run(batch: EditBatch, session: EditSession, context: Context[ServerState]) -> BatchReport:
    ended = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_report_progress, context, batch, ended)
        try:
            return await batch.run(session)
        except QwenEditError as error:
            failure = error  # raised below, because the task group would wrap it in an ExceptionGroup
        finally:
            ended.set()
    raise failure


async def get_task(context: Context[ServerState], task_id: str, output: str = "edited") -> str:
    """Return the state of a task. Save its pictures if it is completed.

    Args:
        context: The context of the call.
        task_id: The task's id.
        output: The folder for the results, inside the allowed folder.
    """
    state = context.request_context.lifespan_context
    folder = state.inside(output)
    with _tool_errors(state.session):
        snapshot = await state.session.status(task_id)
        facts: dict[str, Any] = {"task_id": task_id, "status": snapshot.status.value}
        if snapshot.urls:
            pictures = state.session.pictures(task_id, snapshot.urls)[:MAX_N]  # as many as an edit's result keeps
            stem = safe_stem(task_id)
            facts["files"] = [str(await each.save(folder / f"{stem}-{each.index}.png")) for each in pictures]
            facts["cost"] = _amount(snapshot.usage.cost)
        elif snapshot.failure is not None:
            facts["error"] = snapshot.failure.message
    return json.dumps(facts)


async def _report_progress(context: Context[ServerState], batch: EditBatch, ended: anyio.Event) -> None:
    """Report the progress each second and at the end. Skip a report without a change: MCP requires rising numbers."""
    reported = -1
    while True:
        is_last, progress = ended.is_set(), batch.progress
        if (done := progress.saved + progress.failed) > reported:
            await context.report_progress(done, progress.total, f"{progress.saved} saved, {progress.failed} failed")
            reported = done
        if is_last:
            return
        with anyio.move_on_after(_PROGRESS_SECONDS):
            await ended.wait()


@contextlib.contextmanager
def _tool_errors(session: EditSession) -> Iterator[None]:
    """Convert errors of this package and of file access into errors that the agent can read."""
    try:
        yield
    except (QwenEditError, OSError) as error:
        match error:
            case APIStatusError() | EditFailedError():
                pass
            case QwenEditError(task_id=str(task_id)) if session.has_tasks:
                error.hint = f"get_task({task_id!r}) gets the result, once there is one"  # an agent can't attach
        raise ToolError(str(error)) from None


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise ConfigurationError(f"{name} is not set: set it to limit the server (see `qwen-edit mcp --help`)")
    return value


def _amount(cost: Decimal | None) -> str | None:
    return None if cost is None else f"{cost:f}"
