"""The server for agents, used by the protocol's own client over standard input and output."""

from __future__ import annotations

import errno
import json
import sys
from decimal import Decimal
from types import SimpleNamespace

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mcp import Client, StdioServerParameters
from mcp.server.mcpserver.exceptions import ToolError
from memory_transport import Interrupted

from qwen_edit_async import (
    ConfigurationError,
    EditFailedError,
    EditParameters,
    EditSession,
    Estimate,
    Usage,
    mcp,
)
from qwen_edit_async.emulator import AfterChecks, EditEmulator, Fault, FaultPlan, FixedEngine
from qwen_edit_async.mcp import Allowance, ServerState, edit_folder, edit_image, make_server

pytestmark = [pytest.mark.anyio, pytest.mark.may_block("the client starts a process")]


def client_of(emulator, folder, **environment):
    variables = {
        "QWEN_EDIT_API_KEY": emulator.api_key,
        "QWEN_EDIT_BASE_URL": emulator.url,
        "QWEN_EDIT_MCP_FOLDER": str(folder),
        "QWEN_EDIT_MCP_MAX_COST": "1",
        **environment,
    }
    return Client(StdioServerParameters(command=sys.executable, args=["-m", "qwen_edit_async", "mcp"], env=variables))


async def call(client, tool, **arguments):
    result = await client.call_tool(tool, arguments)
    return result, result.content[0].text


@pytest.fixture
def emulator():
    with EditEmulator(duration=0.02).in_thread() as emulator:
        yield emulator


async def test_an_image_is_edited_and_shown(emulator, photos, tmp_path):
    async with client_of(emulator, tmp_path) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {"edit_image", "edit_folder", "get_task"}
        result, text = await call(client, "edit_image", images=["photos/a.png"], instruction="make it snow", n=2)
        facts = json.loads(text)
        assert not result.is_error
        assert [path.name for path in sorted((tmp_path / "edited").iterdir())] == [
            f"{facts['task_id']}-0.png",
            f"{facts['task_id']}-1.png",
        ]
        assert [block.mime_type for block in result.content[1:]] == ["image/webp"] * 2
        assert Decimal(facts["cost"]) == emulator.statistics().charges
        _, text = await call(client, "get_task", task_id=facts["task_id"], output="again")
        assert json.loads(text)["status"] == "completed"
        assert len(list((tmp_path / "again").iterdir())) == 2


async def test_a_reply_with_many_pictures_does_not_fill_the_folder(photos, tmp_path):
    def multiply(reply):
        return reply | {"output": reply["output"] * 20} if "output" in reply else reply

    plan = FaultPlan([Fault.reshape(multiply).on("check")])
    with EditEmulator(duration=0.0, engine=FixedEngine(), faults=plan).in_thread() as emulator:
        async with client_of(emulator, tmp_path) as client:
            _, text = await call(client, "edit_image", images=["photos/a.png"], instruction="make it snow")
            assert len(json.loads(text)["files"]) == 6
            _, text = await call(client, "get_task", task_id=json.loads(text)["task_id"], output="again")
            assert len(json.loads(text)["files"]) == len(list((tmp_path / "again").iterdir())) == 6


async def test_the_changes_of_an_edit_are_reported_as_progress(photos, tmp_path):
    shown = []

    async def note(count, total, message):
        shown.append((count, total, message))

    arguments = {"images": ["photos/a.png"], "instruction": "make it snow"}
    with EditEmulator(duration=AfterChecks(2), engine=FixedEngine()).in_thread() as emulator:
        async with client_of(emulator, tmp_path) as client:
            assert not (await client.call_tool("edit_image", arguments, progress_callback=note)).is_error
        [task_id] = emulator.tasks
    assert [(count, total) for count, total, _ in shown] == [(number, None) for number in range(len(shown))]
    messages = [message for _, _, message in shown]
    assert len(set(messages)) == len(messages) >= 3
    assert all(message.startswith(f"task {task_id}: ") for message in messages)
    assert any("in_progress" in message for message in messages)
    assert messages[-1] == f"task {task_id}: completed"


async def test_a_folder_is_edited_once(emulator, photos, tmp_path):
    shown = []

    async def note(done, total, message):
        shown.append((done, total, message))

    async with client_of(emulator, tmp_path) as client:
        arguments = {"folder": "photos", "instruction": "make it snow"}
        first = await client.call_tool("edit_folder", arguments, progress_callback=note)
        second = await client.call_tool("edit_folder", arguments)
    assert "3 of 3 edits done" in first.content[0].text
    assert "3 of 3 edits done" in second.content[0].text
    assert emulator.statistics().tasks_created == 3
    assert shown[-1] == (3.0, 3.0, "3 saved, 0 failed")
    assert [done for done, _, _ in shown] == sorted({done for done, _, _ in shown})


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "link/secret.png"])
async def test_other_folders_are_out_of_reach(emulator, tmp_path, path):
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (tmp_path / "secret.png").write_bytes(b"")
    (allowed / "link").symlink_to(tmp_path)
    async with client_of(emulator, allowed) as client:
        for tool, arguments in (
            ("edit_image", {"images": [path], "instruction": "x"}),
            ("edit_folder", {"folder": path, "instruction": "x"}),
            ("get_task", {"task_id": "t", "output": path}),
        ):
            result, text = await call(client, tool, **arguments)
            assert result.is_error
            assert "outside" in text
        _, text = await call(client, "get_task", task_id="t", output="a\0b")
        assert "is not a path" in text
    assert not emulator.requests


@pytest.mark.parametrize("output", ["s3://bucket/x", "file:///tmp/x"])
async def test_results_can_not_go_to_a_url(emulator, photos, tmp_path, output):
    before = sorted(tmp_path.iterdir())
    async with client_of(emulator, tmp_path) as client:
        for tool, arguments in (
            ("edit_image", {"images": ["photos/a.png"], "instruction": "x"}),
            ("edit_folder", {"folder": "photos", "instruction": "x"}),
            ("get_task", {"task_id": "t"}),
        ):
            result, text = await call(client, tool, **arguments, output=output)
            assert result.is_error
            assert f"{output!r} is a URL: use a path inside {tmp_path}" in text
    assert not emulator.requests
    assert sorted(tmp_path.iterdir()) == before


async def test_the_cap_is_kept_by_edits_and_folders(photos, tmp_path):
    with EditEmulator(duration=0.02, price=Decimal("0.04")).in_thread() as emulator:
        async with client_of(emulator, tmp_path, QWEN_EDIT_MCP_MAX_COST="0.09") as client:
            arguments = {"images": ["photos/a.png"], "instruction": "x"}
            assert not (await client.call_tool("edit_image", arguments)).is_error
            _, text = await call(client, "edit_folder", folder="photos", instruction="x")
            assert "1 of 3 edits done" in text
            assert "run it again with a higher QWEN_EDIT_MCP_MAX_COST to go on" in text
            result, text = await call(client, "edit_image", **arguments)
            assert result.is_error
            assert "QWEN_EDIT_MCP_MAX_COST" in text
        assert emulator.statistics().charges == Decimal("0.08")


@pytest.mark.parametrize("tool", ["edit_image", "edit_folder"])
async def test_a_price_of_0_does_not_lift_the_cap(photos, tmp_path, tool):
    given = {"edit_image": {"images": ["photos/a.png"]}, "edit_folder": {"folder": "photos"}}[tool]
    variables = {"QWEN_EDIT_PROTOCOL": "queue", "QWEN_EDIT_MCP_PRICE": "0", "QWEN_EDIT_MCP_MAX_COST": "0.05"}
    with EditEmulator(duration=0.02, price=Decimal("0.04")).in_thread() as emulator:
        async with client_of(emulator, tmp_path, **variables) as client:
            result, text = await call(client, tool, instruction="x", **given)
        assert result.is_error
        assert "the user can set QWEN_EDIT_MCP_PRICE" in text
        assert emulator.statistics().tasks_created == 0


async def test_a_service_that_is_free_can_edit_a_folder(photos, tmp_path):
    with EditEmulator(duration=0.02, price=Decimal(0)).in_thread() as emulator:
        async with client_of(emulator, tmp_path, QWEN_EDIT_MCP_MAX_COST="0.05") as client:
            _, text = await call(client, "edit_folder", instruction="x", folder="photos")
        assert "3 of 3 edits done" in text


async def test_a_stated_price_of_0_does_not_lift_the_cap_of_a_folder(photos, tmp_path):
    def free(members):
        return members | {"data": members["data"] | {"cost": "0"}}

    faults = FaultPlan([Fault.reshape(free).on("precharge")])
    with EditEmulator(duration=0.02, price=Decimal("0.04"), faults=faults).in_thread() as emulator:
        async with client_of(emulator, tmp_path, QWEN_EDIT_MCP_MAX_COST="0.05") as client:
            _, text = await call(client, "edit_folder", instruction="x", folder="photos")
        assert "1 of 3 edits done" in text
        assert emulator.statistics().charges == Decimal("0.04")


async def test_errors_are_told_to_the_agent_and_failures_cost_nothing(photos, tmp_path):
    faults = FaultPlan([Fault.failed_task(110001, "moderation").nth(1)])
    with EditEmulator(duration=0.02, price=Decimal("0.04"), faults=faults).in_thread() as emulator:
        async with client_of(emulator, tmp_path, QWEN_EDIT_MCP_MAX_COST="0.04") as client:
            arguments = {"images": ["photos/a.png"], "instruction": "x"}
            result, text = await call(client, "edit_image", **arguments)
            assert result.is_error
            assert "moderation" in text
            result, text = await call(client, "edit_image", images=["photos/none.png"], instruction="x")
            assert "does not exist" in text
            assert not (await client.call_tool("edit_image", arguments)).is_error


@pytest.mark.parametrize("protocol", ["generation", "dashscope"])
async def test_a_result_that_can_not_be_downloaded_is_offered_by_the_tool_that_gets_it(photos, tmp_path, protocol):
    faults = FaultPlan([Fault.status(404).on("download")])
    with EditEmulator(duration=0.02, engine=FixedEngine(), faults=faults).in_thread() as emulator:
        variables = {"QWEN_EDIT_PROTOCOL": protocol, "QWEN_EDIT_MCP_PRICE": "0.04"}
        async with client_of(emulator, tmp_path, **variables) as client:
            result, text = await call(client, "edit_image", images=["photos/a.png"], instruction="x")
        [task_id] = emulator.tasks
    assert result.is_error
    assert (f"get_task('{task_id}') gets the result, once there is one" in text) == (protocol == "generation")
    assert "could not be downloaded" in text


async def test_cancelling_a_call_cancels_its_edit(photos, tmp_path):
    variables = {"QWEN_EDIT_PROTOCOL": "queue", "QWEN_EDIT_MCP_PRICE": "0.04", "QWEN_EDIT_MCP_MAX_COST": "0.05"}
    with EditEmulator(duration=3600, slots=1, engine=FixedEngine()).in_thread() as emulator:
        async with client_of(emulator, tmp_path, **variables) as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.call_tool, "edit_image", {"images": ["photos/a.png"], "instruction": "x"})
                while not emulator.tasks:  # noqa: ASYNC110  # the emulator runs in another thread
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            with anyio.fail_after(10):
                while not emulator.statistics().tasks_cancelled:  # noqa: ASYNC110  # the emulator runs in another thread
                    await anyio.sleep(0.01)
            [task_id] = emulator.tasks
            _, text = await call(client, "get_task", task_id=task_id)
            assert json.loads(text)["status"] == "failed"
            result, text = await call(client, "edit_image", images=["photos/a.png"], instruction="x")
            assert result.is_error  # the cancelled edit may be charged
            assert "cap" in text


def test_a_limit_that_is_missing_or_wrong_is_told(tmp_path):
    limits = {"QWEN_EDIT_MCP_FOLDER": str(tmp_path), "QWEN_EDIT_MCP_MAX_COST": "1"}
    for name in limits:
        with pytest.raises(ConfigurationError, match=name):
            make_server({**limits, name: " "}, api_key="k")
    with pytest.raises(ConfigurationError, match="create that folder"):
        make_server({**limits, "QWEN_EDIT_MCP_FOLDER": str(tmp_path / "none")}, api_key="k")
    with pytest.raises(ConfigurationError, match="QWEN_EDIT_MCP_MAX_COST"):
        make_server({**limits, "QWEN_EDIT_MCP_MAX_COST": "much"}, api_key="k")


def test_the_price_is_the_highest_known():
    allowance = Allowance(Decimal(1), price=Decimal("0.1"))
    allowance.settle(allowance.reserve(Decimal("0.2")), Decimal("0.5"), 2)
    assert (allowance.left, allowance.price) == (Decimal("0.5"), Decimal("0.25"))
    allowance.settle(allowance.reserve(Decimal("0.5")), None, 2)
    assert allowance.left == 0
    with pytest.raises(ToolError, match=r"MCP_MAX_COST$"):
        allowance.reserve(Decimal(0))


def test_an_edit_whose_price_and_cost_are_unknown_counts_as_the_whole_cap_and_the_user_can_set_a_price():
    allowance = Allowance(Decimal(1))
    with pytest.raises(ToolError, match=r"MCP_MAX_COST$"):
        allowance.reserve(Decimal(2))
    allowance.settle(allowance.reserve(Decimal(1)), None, 1)
    with pytest.raises(ToolError, match="raise QWEN_EDIT_MCP_MAX_COST and to set QWEN_EDIT_MCP_PRICE to the price"):
        allowance.reserve(Decimal(1))


async def test_the_first_edit_is_within_the_cap(photos, tmp_path):
    with EditEmulator(duration=0.02, price=Decimal("0.04")).in_thread() as emulator:
        async with client_of(emulator, tmp_path, QWEN_EDIT_MCP_MAX_COST="0.20") as client:
            result, text = await call(client, "edit_image", images=["photos/a.png"], instruction="x", n=6)
            assert result.is_error
            assert "0.20 left, 0.24 needed" in text
            assert not (await client.call_tool("edit_image", {"images": ["photos/a.png"], "instruction": "x"})).is_error
        assert emulator.statistics().charges == Decimal("0.04")


async def test_a_service_without_prices_needs_the_users(photos, tmp_path):
    arguments = {"edit_image": {"images": ["photos/a.png"]}, "edit_folder": {"folder": "photos"}}
    with EditEmulator(duration=0.02).in_thread() as emulator:
        protocol = {"QWEN_EDIT_PROTOCOL": "dashscope", "QWEN_EDIT_MCP_MAX_COST": "0.09"}
        async with client_of(emulator, tmp_path, **protocol) as client:
            for tool, given in arguments.items():
                result, text = await call(client, tool, instruction="x", **given)
                assert result.is_error
                reason = "is unknown (the protocol 'dashscope' can't tell what an edit costs)"
                assert f"{reason}: the user can set QWEN_EDIT_MCP_PRICE" in text
                assert "price=" not in text
        async with client_of(emulator, tmp_path, **protocol, QWEN_EDIT_MCP_PRICE="0.04") as client:
            _, text = await call(client, "edit_folder", instruction="x", folder="photos")
            assert "2 of 3 edits done" in text
            result, _ = await call(client, "edit_image", instruction="x", images=["photos/a.png"])
            assert result.is_error
        assert emulator.statistics().submits == 2


async def test_a_call_that_is_cancelled_anywhere_gives_its_reservation_back(emulator, photos, tmp_path):
    async def ignore(*_):
        pass

    async with EditSession(emulator.api_key, base_url=emulator.url) as session:
        state = ServerState(session, tmp_path, Allowance(Decimal(1)))
        lifespan = SimpleNamespace(lifespan_context=state)
        context = SimpleNamespace(request_context=lifespan, report_progress=ignore)
        assert "3 of 3 edits done" in await edit_folder(context, "photos", "x")
        left, steps = state.allowance.left, 0
        cancelled = True
        while cancelled:
            steps += 1
            with anyio.CancelScope() as scope:
                work = Interrupted(
                    edit_folder(context, "photos", "x"),
                    on_suspension=lambda _: work.suspensions == steps and scope.cancel(),  # noqa: B023  # called in this turn of the loop
                )
                assert "3 of 3 edits done" in await work
            cancelled = scope.cancelled_caught
            assert state.allowance.left == left
    assert steps > 10


async def test_an_edit_that_is_cancelled_before_it_is_sent_gives_its_reservation_back(photos, tmp_path):
    with EditEmulator(duration=3600, engine=FixedEngine()).in_thread() as emulator:
        async with EditSession(emulator.api_key, base_url=emulator.url, max_in_flight=1) as session:
            first = await session.submit(photos / "a.png", "x")  # takes the only slot
            state = ServerState(session, tmp_path, Allowance(Decimal(1), Decimal("0.04")))
            context = SimpleNamespace(request_context=SimpleNamespace(lifespan_context=state))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(edit_image, context, ["photos/b.jpg"], "x")
                while not session.statistics().waiting:  # noqa: ASYNC110  # there is no event for it
                    await anyio.sleep(0.01)
                assert state.allowance.left == Decimal("0.96")
                tasks.cancel_scope.cancel()
            assert state.allowance.left == 1
            first.cancel()
        assert emulator.statistics().tasks_created == 1


async def test_a_folder_does_not_cancel_a_debt(emulator, photos, tmp_path):
    async def ignore(*_):
        pass

    async with EditSession(emulator.api_key, base_url=emulator.url) as session:
        state = ServerState(session, tmp_path, Allowance(Decimal("-0.05")))  # an edit cost more than its price
        lifespan = SimpleNamespace(lifespan_context=state)
        context = SimpleNamespace(request_context=lifespan, report_progress=ignore)
        assert "0 of 3 edits done" in await edit_folder(context, "photos", "x")
    assert state.allowance.left == Decimal("-0.05")


async def test_tasks_of_a_cancelled_folder_count_against_the_cap(photos, tmp_path):
    with EditEmulator(duration=3600, engine=FixedEngine()).in_thread() as emulator:
        async with client_of(emulator, tmp_path, QWEN_EDIT_MCP_MAX_COST="0.15", QWEN_EDIT_MCP_PRICE="0.04") as client:
            arguments = {"folder": "photos", "instruction": "x"}
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.call_tool, "edit_folder", arguments)
                while len(emulator.tasks) < 3:  # noqa: ASYNC110  # the emulator runs in another thread
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            _, text = await call(client, "edit_folder", **arguments, output="elsewhere")
            assert "0 of 3 edits done" in text
            _, text = await call(client, "edit_image", images=["photos/a.png"], instruction="x")
            assert "0.03 left, 0.04 needed" in text
        assert emulator.statistics().tasks_created == 3


async def test_a_folder_that_another_call_edits_is_charged_to_that_call_alone(photos, tmp_path, monkeypatch):
    seen = []

    async def costs(*_):
        seen.append(Decimal(len(seen)))  # the other call submits an edit after each look
        return seen[-1]

    async def ignore(*_):
        pass

    with EditEmulator(duration=3600, engine=FixedEngine()).in_thread() as emulator:
        async with EditSession(emulator.api_key, base_url=emulator.url) as session:
            state = ServerState(session, tmp_path, Allowance(Decimal(10)))
            lifespan = SimpleNamespace(lifespan_context=state)
            context = SimpleNamespace(request_context=lifespan, report_progress=ignore)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(edit_folder, context, "photos", "x")
                while not emulator.tasks:  # noqa: ASYNC110  # the emulator runs in another thread
                    await anyio.sleep(0.01)
                left = state.allowance.left
                monkeypatch.setattr(mcp, "_costs", costs)
                with pytest.raises(ToolError, match="in use by another run"):
                    await edit_folder(context, "photos", "x")
                monkeypatch.undo()
                assert state.allowance.left == left
                tasks.cancel_scope.cancel()


async def test_pictures_of_other_folders_are_out_of_reach(emulator, photos, tmp_path):
    secret = photos / "a.png"
    allowed = tmp_path / "allowed"
    (allowed / "links" / "below").mkdir(parents=True)
    (allowed / "links" / "below" / "a.png").symlink_to(secret)
    (allowed / "table.csv").write_text(f"image,instruction\n{secret},x\n")
    (allowed / "table").mkdir()
    pq.write_table(pa.table({"image": [str(secret)], "instruction": ["x"], "n": [6]}), allowed / "table/1.parquet")
    cases = dict.fromkeys(("table.csv", "*", "table"), "not a folder of pictures") | {"links": "outside"}
    async with client_of(emulator, allowed) as client:
        for folder, said in cases.items():
            result, text = await call(client, "edit_folder", folder=folder, instruction="x", recursive=True)
            assert result.is_error
            assert said in text
    assert not emulator.requests


async def test_a_price_that_depends_on_the_parameters_is_within_the_cap(tmp_path):
    async def estimate(*_, parameters):
        cost = Decimal("0.40") if parameters is not None and parameters.size == (2048, 2048) else Decimal("0.04")
        return Estimate(cost=cost)

    state = ServerState(SimpleNamespace(estimate=estimate), tmp_path, Allowance(Decimal(1), price=Decimal("0.01")))
    assert await state.price() == Decimal("0.04")
    assert await state.price(EditParameters(size="2048*2048")) == Decimal("0.40")
    state.allowance.price = Decimal("0.10")
    assert await state.price() == Decimal("0.10")


class EndedTask:
    """A task that has ended, without further changes of its status."""

    def __init__(self, result):
        self.result = result

    async def updates(self):
        for snapshot in ():
            yield snapshot

    def __await__(self):
        yield from ()
        return self.result


def call_in(state):
    """Return the context of a call to a server with this state."""
    return SimpleNamespace(request_context=SimpleNamespace(lifespan_context=state))


async def test_a_failed_edit_counts_at_the_cost_that_the_service_states(tmp_path):
    async def submit(_):
        raise EditFailedError("moderation", cost=Decimal("0.03"), task_id="t")

    async def estimate(*_, **__):
        return Estimate(cost=Decimal("0.04"))

    state = ServerState(SimpleNamespace(submit=submit, estimate=estimate), tmp_path, Allowance(Decimal("0.10")))
    with pytest.raises(ToolError, match="moderation"):
        await edit_image(call_in(state), ["https://pictures.example/cat.png"], "x")
    assert state.allowance.left == Decimal("0.07")


@pytest.mark.parametrize(
    ("cost", "ends"),
    [
        ("0.04", ["done", "done", "refused"]),  # the cost of the first edit makes the price known
        ("0", ["done", "done", "done"]),
        (None, ["done", "refused", "refused"]),
    ],
    ids=["charged", "free", "unstated"],
)
async def test_edits_run_one_at_a_time_until_a_price_above_0_is_known(tmp_path, cost, ends):
    running, most, ended = 0, 0, []
    usage = Usage(cost=None if cost is None else Decimal(cost))

    async def estimate(*_, **__):
        await anyio.lowlevel.checkpoint()
        return Estimate(cost=Decimal(0))

    async def submit(_):
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(10):  # the other calls come as far as they can
            await anyio.lowlevel.checkpoint()
        running -= 1
        return EndedTask(SimpleNamespace(task_id="task-1", usage=usage, notes=(), save=save))

    async def save(_):
        return []

    async def edit():
        try:
            await edit_image(call_in(state), ["https://pictures.example/cat.png"], "x")
        except ToolError:
            ended.append("refused")
        else:
            ended.append("done")

    state = ServerState(SimpleNamespace(submit=submit, estimate=estimate), tmp_path, Allowance(Decimal("0.10")))
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(edit)
    assert (sorted(ended), most) == (sorted(ends), 1)
    assert state.allowance.left == {"0.04": Decimal("0.02"), "0": Decimal("0.10"), None: 0}[cost]


async def test_pictures_that_can_not_be_saved_are_named_by_their_task(tmp_path):
    async def submit(_):
        return EndedTask(SimpleNamespace(task_id="task-1", usage=Usage(cost=Decimal("0.04")), save=save))

    async def estimate(*_, **__):
        return Estimate(cost=Decimal("0.04"))

    async def save(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    state = ServerState(SimpleNamespace(submit=submit, estimate=estimate), tmp_path, Allowance(Decimal("0.10")))
    with pytest.raises(
        ToolError, match=r"task task-1 is completed, but .*No space left.*: solve this problem, and call get_t"
    ):
        await edit_image(call_in(state), ["https://pictures.example/cat.png"], "x")
    assert state.allowance.left == Decimal("0.06")


async def test_a_folder_that_takes_no_results_is_found_before_the_edit(emulator, photos, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    async with client_of(emulator, tmp_path) as client:
        result, text = await call(client, "edit_image", images=["photos/a.png"], instruction="x", output="file")
    assert result.is_error
    assert "File exists" in text
    assert not emulator.requests
