from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import logging
import sqlite3
import subprocess
import sys
import threading
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

import anyio
import attrs
import pytest
from memory_transport import MemoryService, MemorySession, until

from qwen_edit_async import EditBatch, EditParameters, EditRequest, EditSession, JournalError
from qwen_edit_async.batch.input import BatchInput
from qwen_edit_async.batch.intake import edit_all
from qwen_edit_async.batch.journal.database import Store
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME, LOCK_NAME, Journal
from qwen_edit_async.batch.journal.lock import run_lock
from qwen_edit_async.batch.journal.outcomes import read_page
from qwen_edit_async.batch.journal.rows import explain, uri_of
from qwen_edit_async.batch.journal.schema import APPLICATION_ID
from qwen_edit_async.batch.output import BatchOutput
from qwen_edit_async.batch.rules.decide import Fingerprint, State
from qwen_edit_async.batch.rules.item import EditDefaults, Reading
from qwen_edit_async.batch.rules.report import Percentiles
from qwen_edit_async.batch.run import RunOptions, open_run

pytestmark = [pytest.mark.anyio, pytest.mark.may_block("the test looks into the file from outside")]


def draft(
    identity: str, /, *, key: str | None = "", stem: str = "", digest: str = "", instruction: str = "snow"
) -> tuple[str, EditRequest, Fingerprint]:
    """Return an edit to be planned. Its key is its identity by default."""
    request = EditRequest(f"{stem or identity}.jpg", instruction, key=identity if key == "" else key)
    return identity, request, Fingerprint(digest or f"digest of {identity}")


@pytest.fixture
async def journal(tmp_path):
    journal = await Journal.open(tmp_path, "a service")
    yield journal
    await journal.aclose()


@pytest.fixture
def rows(tmp_path):
    """What another program sees of the journal."""

    def select(query: str) -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(tmp_path / JOURNAL_NAME)) as connection:
            return connection.execute(query).fetchall()

    return select


async def run_in(folder: Path) -> None:
    async with MemorySession(MemoryService()) as session:
        await EditBatch([], folder).run(session)


async def plan_in(folder: Path) -> None:
    await EditBatch([], folder).plan()


async def keys_in(folder: Path) -> list[str]:
    return [outcome.key async for outcome in EditBatch([], folder).outcomes()]


async def reach(journal: Journal, number: int, *states: State) -> None:
    for state in states:
        await journal.do(Store.move, number, state)


async def submitted(journal: Journal, key: str, n: int = 1) -> int:
    identity, request, content = draft(key)
    request = attrs.evolve(request, parameters=EditParameters(n=n))
    number = (await journal.do(Store.plan, identity, request, content)).number
    await journal.do(Store.move, number, State.SUBMITTING)
    await journal.do(Store.move, number, State.SUBMITTED, task_id=f"task-of-{key}")
    return number


async def test_what_is_awaited_is_seen_from_outside(journal, rows):
    entry = await journal.do(Store.plan, *draft("cat"))
    assert rows("SELECT key, state FROM edits") == [("cat", "planned")]
    await journal.do(Store.move, entry.number, State.SUBMITTING)
    assert rows("SELECT state, attempts FROM edits") == [("submitting", 1)]


async def test_a_key_is_planned_once(journal):
    first = await journal.do(Store.plan, *draft("cat"))
    again = await journal.do(Store.plan, *draft("cat", digest="another"))
    assert again == first
    assert await journal.do(Store.find, "cat") == first
    assert await journal.do(Store.find, "dog") is None


@pytest.mark.parametrize("stem", ["cat", "CAT"])
async def test_two_edits_never_share_files(journal, stem):
    await journal.do(Store.plan, *draft("cat"))
    entry = await journal.do(Store.plan, *draft("other", key=None, stem=stem))
    assert (entry.name, await journal.do(Store.find, "other")) == (f"{stem}-2", entry)


async def test_an_edit_without_a_key_is_known_by_the_name_of_its_files(journal):
    entry = await journal.do(Store.plan, *draft("photos/cat.jpg", key=None, stem="cat"))
    assert (entry.identity, entry.key, entry.name) == ("photos/cat.jpg", "cat", "cat")


async def test_tasks_of_edits_with_the_same_key_are_all_listed(journal):
    for identity, key in (("photos/cat.jpg", None), ("cat", "cat")):
        entry = await journal.do(Store.plan, *draft(identity, key=key, stem="cat"))
        await reach(journal, entry.number, State.SUBMITTING)
        await journal.do(Store.move, entry.number, State.SUBMITTED, task_id=f"task-{entry.number}")
        await reach(journal, entry.number, State.COMPLETED)
    assert (await journal.do(Store.summary)).unsaved_tasks == {"cat": "task-1", "cat (cat-2)": "task-2"}


async def test_a_replaced_edit_keeps_its_name_and_leaves_its_identity_to_the_new_one(journal, rows):
    await journal.do(Store.move, await submitted(journal, "cat"), State.COMPLETED, urls=["http://a"], cost="0.5")
    await journal.do(Store.save, 1, [Path("cat-0.png")])
    entry = await journal.do(Store.replace, 1, *draft("cat", digest="another"))
    assert (entry.number, entry.name, entry.state) == (2, "cat-2", State.PLANNED)
    assert await journal.do(Store.find, "cat") == entry
    assert rows("SELECT identity, key, name, state, task_id, cost FROM edits WHERE number = 1") == [
        (None, "cat", "cat", "replaced", "task-of-cat", "0.5")
    ]


async def test_an_entry_tells_all_that_going_on_needs(journal, tmp_path):
    number = await submitted(journal, "cat")
    await journal.do(Store.move, number, State.COMPLETED, urls=["http://a", "http://b"])
    picture = tmp_path / "cat-0.png"
    picture.write_bytes(b"12345")
    await journal.do(Store.save, number, [picture, tmp_path / "missing.png"])
    entry = await journal.do(Store.find, "cat")
    assert (entry.state, entry.task_id, entry.urls) == (State.SAVED, "task-of-cat", ("http://a", "http://b"))
    assert entry.files == (("cat-0.png", 5), ("missing.png", -1))


async def test_an_illegal_move_is_refused_and_changes_nothing(journal, rows):
    number = await submitted(journal, "cat")
    with pytest.raises(JournalError, match="can't become submitting"):
        await journal.do(Store.move, number, State.SUBMITTING)
    assert rows("SELECT state, attempts FROM edits") == [("submitted", 1)]


async def test_an_illegal_move_does_not_harm_what_is_written_with_it(journal, rows):
    cat, dog = [(await journal.do(Store.plan, *draft(key))).number for key in ("cat", "dog")]
    outcomes = await asyncio.gather(
        journal.do(Store.move, cat, State.SAVED), journal.do(Store.move, dog, State.SUBMITTING), return_exceptions=True
    )
    assert isinstance(outcomes[0], JournalError)
    assert rows("SELECT state FROM edits ORDER BY number") == [("planned",), ("submitting",)]


async def test_many_writers_share_few_transactions(tmp_path, monkeypatch):
    transactions = []

    class Disk(sqlite3.Connection):
        def execute(self, query, *parameters):
            if query == "BEGIN IMMEDIATE":
                transactions.append(query)
            return super().execute(query, *parameters)

    monkeypatch.setattr("sqlite3.connect", Disk)
    journal = await Journal.open(tmp_path, "a service")
    transactions.clear()
    await asyncio.gather(*(journal.do(Store.plan, *draft(f"cat{number}")) for number in range(100)))
    await journal.aclose()
    assert len(transactions) == 1


async def test_steps_are_written_in_the_order_in_which_they_were_asked_for(journal, rows):
    number = (await journal.do(Store.plan, *draft("cat"))).number
    for state in (State.SUBMITTING, State.PLANNED, State.SUBMITTING):
        journal.do(Store.move, number, state)
    await journal.do(Store.move, number, State.SUBMITTED, task_id="t")
    assert rows("SELECT state, attempts FROM edits") == [("submitted", 2)]


async def test_giving_up_the_wait_does_not_undo_the_step(journal, rows):
    number = (await journal.do(Store.plan, *draft("cat"))).number
    wait = asyncio.create_task(reach(journal, number, State.SUBMITTING))
    await asyncio.sleep(0)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    await journal.do(Store.summary)
    assert rows("SELECT state FROM edits") == [("submitting",)]


async def test_closing_writes_what_nobody_waits_for(tmp_path, rows):
    journal = await Journal.open(tmp_path, "a service")
    number = (await journal.do(Store.plan, *draft("cat"))).number
    journal.do(Store.move, number, State.SUBMITTING)
    await journal.aclose()
    assert rows("SELECT state FROM edits") == [("submitting",)]


@pytest.fixture
def connections(monkeypatch):
    """The connections to databases that were opened. They do not wait for a lock."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def open_at_once(*arguments, timeout=0.0, **options):
        opened.append(connect(*arguments, timeout=0.0, **options))
        return opened[-1]

    monkeypatch.setattr("sqlite3.connect", open_at_once)
    return opened


def settings_of(connection: sqlite3.Connection, *names: str) -> list[object]:
    return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]


async def test_every_commit_reaches_the_disk(tmp_path, connections):
    with contextlib.closing(Store(tmp_path / JOURNAL_NAME)):
        assert settings_of(connections[0], "journal_mode", "synchronous", "fullfsync") == ["wal", 2, 1]


@pytest.fixture(params=["answers with another mode", "raises"])
def network_drive(request, monkeypatch):
    """The file system has no shared memory, which a write-ahead log needs."""

    class NetworkDrive(sqlite3.Connection):
        def execute(self, query, *parameters):
            if query == "PRAGMA journal_mode = WAL":
                if request.param == "raises":
                    raise sqlite3.OperationalError("locking protocol")
                query = "PRAGMA journal_mode"
            return super().execute(query, *parameters)

    monkeypatch.setattr("sqlite3.connect", NetworkDrive)


@pytest.mark.usefixtures("network_drive")
async def test_where_there_is_no_write_ahead_log_it_does_without_and_says_so(tmp_path, caplog, connections):
    with caplog.at_level(logging.WARNING), contextlib.closing(Store(tmp_path / JOURNAL_NAME)):
        assert settings_of(connections[0], "journal_mode", "synchronous") == ["persist", 2]
    assert "can't keep a write-ahead log" in caplog.text


@pytest.mark.usefixtures("network_drive")
async def test_without_a_write_ahead_log_readers_see_what_is_written_whole_or_not_at_all(tmp_path, connections):
    with contextlib.closing(Store(tmp_path / JOURNAL_NAME)) as store:
        writer = connections[0]
        store.plan(*draft("cat"))
        writer.execute("BEGIN IMMEDIATE")
        store.plan(*draft("dog"))
        await plan_in(tmp_path)
        assert await keys_in(tmp_path) == ["cat"]
        writer.execute("COMMIT")
        assert await keys_in(tmp_path) == ["cat", "dog"]
        writer.execute("BEGIN EXCLUSIVE")
        path = tmp_path / JOURNAL_NAME
        for look in (partial(Store, path, read_only=True), partial(read_page, path, 0, tmp_path)):
            with pytest.raises(JournalError, match="another program has locked it"):
                look()


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        (PurePosixPath("/a b/j?.db"), "file:///a%20b/j%3F.db"),
        (PureWindowsPath(r"C:\a\j.db"), "file:///C:/a/j.db"),
        (PureWindowsPath(r"\\nas\share\j.db"), "file:////nas/share/j.db"),
    ],
)
def test_the_uri_of_a_journal_names_no_host_because_sqlite_takes_none(path, uri):
    assert uri_of(path) == uri


@pytest.mark.parametrize("use", [run_in, plan_in, keys_in])
async def test_a_transaction_that_was_cut_off_without_a_write_ahead_log_is_undone(tmp_path, use):
    whole, cut = tmp_path / JOURNAL_NAME, tmp_path / "cut off" / JOURNAL_NAME
    with contextlib.closing(Store(whole)) as store:
        for number in range(40):
            store.plan(*draft(f"cat{number:02}"))
    cut.parent.mkdir()
    with contextlib.closing(sqlite3.connect(whole, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA cache_size = 1")  # what does not fit is in the file before the transaction ends
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE edits SET digest = digest || hex(zeroblob(3000))")
        for name in (JOURNAL_NAME, f"{JOURNAL_NAME}-journal"):
            cut.with_name(name).write_bytes(whole.with_name(name).read_bytes())
    await use(cut.parent)
    assert await keys_in(cut.parent) == [f"cat{number:02}" for number in range(40)]


@pytest.fixture
def disk(monkeypatch):
    """A disk whose size in pages of a database can be changed."""

    class Disk(sqlite3.Connection):
        pages = 100_000

        def execute(self, query, *parameters):
            if query == "BEGIN IMMEDIATE":
                super().execute(f"PRAGMA max_page_count = {Disk.pages}")
            return super().execute(query, *parameters)

    monkeypatch.setattr("sqlite3.connect", Disk)
    return Disk


async def test_a_full_disk_is_named_and_nothing_is_written_after_it(disk, journal, rows):
    await journal.do(Store.plan, *draft("cat"))
    disk.pages = 1
    with pytest.raises(JournalError, match="the disk is full"):
        await journal.do(Store.plan, *draft("dog", instruction="x" * 100_000))
    disk.pages = 100_000
    with pytest.raises(JournalError, match="the disk is full"):
        await journal.do(Store.plan, *draft("cow"))
    assert rows("SELECT key FROM edits") == [("cat",)]


async def test_a_value_that_a_plan_can_not_read_is_an_error_of_the_journal(tmp_path):
    identity, request, content = draft("cat")
    with contextlib.closing(Store(tmp_path / JOURNAL_NAME)) as store:
        store.plan(identity, request, content)
    with contextlib.closing(sqlite3.connect(tmp_path / JOURNAL_NAME)) as connection, connection:
        connection.execute("UPDATE edits SET key = CAST(x'f4' AS TEXT)")
    with pytest.raises(JournalError, match="not decode"):
        await EditBatch([request], tmp_path).plan()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SQLITE_FULL", "the disk is full"),
        ("SQLITE_READONLY_DBMOVED", "read-only"),
        ("SQLITE_CANTOPEN_ISDIR", "is the folder writable"),
        ("SQLITE_CORRUPT", "damaged"),
        ("SQLITE_BUSY", "another program"),
        ("SQLITE_IOERR_WRITE", "the disk failed"),
        ("SQLITE_MISUSE", "in its own words"),
    ],
)
async def test_errors_of_sqlite_are_explained(name, words):
    error = sqlite3.OperationalError("in its own words")
    error.sqlite_errorname = name
    assert words in str(explain(error, Path("journal")))


async def test_what_was_being_submitted_is_uncertain_afterwards(journal):
    number = (await journal.do(Store.plan, *draft("cat"))).number
    await submitted(journal, "dog")
    await journal.do(Store.move, number, State.SUBMITTING)
    assert await journal.do(Store.recover) == 1
    assert (await journal.do(Store.find, "cat")).state is State.UNCERTAIN
    assert (await journal.do(Store.find, "dog")).state is State.SUBMITTED


async def test_unfinished_edits_come_page_by_page(journal):
    numbers = [await submitted(journal, key) for key in ("a", "b", "c")]
    await journal.do(Store.plan, *draft("planned"))
    await journal.do(Store.move, numbers[1], State.FAILED)
    page = await journal.do(Store.unfinished, 0, 1)
    assert [entry.key for entry in page] == ["a"]
    assert [entry.key for entry in await journal.do(Store.unfinished, page[-1].number, 10)] == ["c"]


async def test_totals_count_every_task_that_may_exist_and_exact_money(journal):
    for key, cost in (("a", "0.1"), ("b", "0.2"), ("c", "0.1")):
        await journal.do(Store.move, await submitted(journal, key), State.COMPLETED, urls="[]", cost=cost)
    await submitted(journal, "in flight")
    lost = (await journal.do(Store.plan, *draft("lost"))).number
    await journal.do(Store.move, lost, State.SUBMITTING, repeats=1)
    await journal.do(Store.move, lost, State.UNCERTAIN)
    summary = await journal.do(Store.summary)
    assert (summary.tasks, summary.doubtful, summary.cost) == (6, 2, Decimal("0.4"))


async def test_an_edit_that_was_left_while_it_was_submitted_counts_as_a_task(journal):
    edit = (await journal.do(Store.plan, *draft("left"))).number
    await journal.do(Store.move, edit, State.SUBMITTING)
    before = await journal.do(Store.totals)
    await journal.do(Store.recover)
    assert (before.tasks, before.doubtful) == (1, 1)
    assert before == await journal.do(Store.totals)


@pytest.mark.parametrize("absurd", ["1e1000000", "1E+999999999999", "-1E+5", "free"])
async def test_a_cost_that_can_be_none_is_unknown_in_what_is_added_up(absurd, journal):
    for key, cost in (("a", "0.1"), ("b", absurd), ("c", None)):
        await journal.do(Store.move, await submitted(journal, key), State.COMPLETED, urls=["u"], cost=cost)
    summary = await journal.do(Store.summary)
    assert (summary.cost, summary.price, summary.unpriced) == (Decimal("0.1"), Decimal("0.1"), 2)
    assert summary.doubtful == 2


async def test_the_costs_of_edits_without_a_result_are_added_up_too(journal):
    await journal.do(Store.move, await submitted(journal, "free"), State.FAILED, cost="0")
    await journal.do(Store.move, await submitted(journal, "failed"), State.FAILED, cost="0.5")
    await journal.do(Store.move, await submitted(journal, "pictureless"), State.COMPLETED, cost="0.25")
    await journal.do(Store.move, await submitted(journal, "silent"), State.FAILED)
    summary = await journal.do(Store.summary)
    assert (summary.cost, summary.highest, summary.unpriced) == (Decimal("0.75"), Decimal("0.5"), 0)
    assert summary.price is None
    assert [entry.cost for entry in await journal.do(Store.unfinished, 0, 10)] == [Decimal("0.25")]


@pytest.mark.parametrize(
    ("cost", "urls", "price"),
    [("0.5", ["u", "u"], "0.25"), ("0.5", ["", "u"], "0.5"), ("0.5", ["u"] * 5, "0.25"), ("0.5", [], "0.1")],
    ids=["all", "fewer", "more", "none"],
)
async def test_the_price_is_that_of_the_pictures_an_edit_gave(journal, cost, urls, price):
    await journal.do(Store.move, await submitted(journal, "cheap"), State.COMPLETED, urls=["u"], cost="0.1")
    await journal.do(Store.move, await submitted(journal, "free"), State.COMPLETED, urls=["u"], cost="0")
    await journal.do(Store.move, await submitted(journal, "cat", n=2), State.COMPLETED, urls=urls, cost=cost)
    summary = await journal.do(Store.summary)
    assert (summary.price, summary.highest) == (Decimal(price), Decimal("0.5"))


async def test_the_summary_adds_up(journal, tmp_path):
    for number in range(1, 21):
        edit = await submitted(journal, f"edit{number}")
        await journal.do(
            Store.move,
            edit,
            State.COMPLETED,
            urls="[]",
            cost=None if number == 1 else "0.5",
            running=float(number),
            checks=3,
        )
        await journal.do(Store.save, edit, [tmp_path / "0.png", tmp_path / "1.png"])
    for key in ("lost", "found"):
        await journal.do(Store.plan, *draft(key))
    await journal.do(Store.move, 21, State.SUBMITTING)
    await journal.do(Store.move, 21, State.UNCERTAIN, reason="lost")
    await journal.do(Store.move, 22, State.FAILED, reason="bad")
    summary = await journal.do(Store.summary)
    assert (summary.saved, summary.uncertain, summary.failed, summary.retryable) == (20, 1, 1, 1)
    assert (summary.planned, summary.in_flight, summary.unsaved, summary.replaced) == (0, 0, 0, 0)
    assert (summary.pictures, summary.cost, summary.unpriced) == (40, Decimal("9.5"), 1)
    assert (summary.running, summary.queued) == (Percentiles(10.0, 19.0), None)
    assert (summary.checks_per_edit, summary.uncertain_keys) == (3.0, ("lost",))
    assert [(group.reason, group.count, group.keys) for group in summary.failures] == [
        ("bad", 1, ("found",)),
        ("lost", 1, ("lost",)),
    ]


async def test_a_journal_is_found_again(tmp_path):
    journal = await Journal.open(tmp_path / "new" / "folder", "a service")
    await submitted(journal, "cat")
    await journal.aclose()
    journal = await Journal.open(tmp_path / "new" / "folder", "a service")
    entry = await journal.do(Store.find, "cat")
    await journal.aclose()
    assert entry.task_id == "task-of-cat"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 99", "later version"),
        (f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1", "earlier version"),
        ("PRAGMA application_id = 7", "another program"),
        ("PRAGMA user_version = 99", "another program"),
        ("CREATE TABLE notes (text)", "another program"),
    ],
)
async def test_a_database_that_is_no_journal_of_ours_is_left_alone(tmp_path, script, words):
    path = tmp_path / JOURNAL_NAME
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=words):
        await Journal.open(tmp_path, "a service")
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    (tmp_path / JOURNAL_NAME).write_text("my notes" * 1000)
    with pytest.raises(JournalError, match="not a SQLite database"):
        await Journal.open(tmp_path, "a service")
    assert (tmp_path / JOURNAL_NAME).read_text().startswith("my notes")


@pytest.mark.parametrize("use", [run_in, plan_in, keys_in])
async def test_a_journal_that_can_not_be_opened_is_named(tmp_path, use):
    (tmp_path / JOURNAL_NAME).mkdir()
    with pytest.raises(JournalError, match=f"the journal .*{JOURNAL_NAME}: "):
        await use(tmp_path)


async def test_a_folder_that_can_not_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"the folder .*file/out can't be written: Not a directory"):
        await Journal.open(tmp_path / "file" / "out", "a service")


async def test_opening_can_be_given_up(tmp_path):
    opening = asyncio.create_task(Journal.open(tmp_path, "a service"))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with asyncio.timeout(10):
        while True:  # until the abandoned one is closed
            with contextlib.suppress(JournalError):
                journal = await Journal.open(tmp_path, "a service")
                break
    await journal.aclose()


async def test_a_second_run_is_refused_while_the_first_lasts(tmp_path):
    journal = await Journal.open(tmp_path, "a service")
    with pytest.raises(JournalError, match="is in use by another run; wait until that run ends"):
        await Journal.open(tmp_path, "a service")
    await journal.aclose()
    await (await Journal.open(tmp_path, "a service")).aclose()


HOLDER = """
import sys, pathlib
from qwen_edit_async.batch.journal.lock import run_lock
with run_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_of_another_process_ends_with_it_however_it_dies(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / LOCK_NAME)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(JournalError, match="another run"), run_lock(tmp_path / LOCK_NAME):
            pass
        holder.kill()
    with run_lock(tmp_path / LOCK_NAME):
        pass


FORKER = """
import os, pathlib, sys
from qwen_edit_async.batch.journal.lock import run_lock
path = pathlib.Path(sys.argv[1])
reader, writer = os.pipe()
with run_lock(path):
    if not os.fork():
        os.close(writer)
        os.read(reader, 1)  # until the parent has ended
        os._exit(0)
with run_lock(path):
    pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_the_lock_ends_with_the_run_although_a_process_that_was_forked_meanwhile_lives_on(tmp_path):
    subprocess.run([sys.executable, "-c", FORKER, str(tmp_path / LOCK_NAME)], check=True)


async def test_errors_of_the_lock_itself_are_not_taken_for_an_answer(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the disk failed")

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(JournalError, match="the disk failed"):
        await Journal.open(tmp_path, "a service")


async def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(JournalError, match=r"has no locks, .*; choose an output folder on another file system"):
        await Journal.open(tmp_path, "a service")


@pytest.mark.parametrize("use", [run_in, plan_in, keys_in])
async def test_a_journal_of_an_earlier_version_is_refused_and_left_as_it_is(tmp_path, use):
    path = tmp_path / JOURNAL_NAME
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE edits (number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, state TEXT, task_id TEXT);"
            "INSERT INTO edits VALUES (1, 'cat', 'saved', 'task-1');"
            f"PRAGMA application_id = {0x51574544}; PRAGMA user_version = 3;"
        )
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"an earlier version .*; finish the batch with the version that wrote it"):
        await use(tmp_path)
    assert path.read_bytes() == before


async def test_a_file_that_can_not_be_looked_at_does_not_hold_up_the_journal(tmp_path):
    looks, go_on = threading.Event(), threading.Event()

    class HangingFile(io.BytesIO):
        def read(self, *_: object) -> bytes:
            looks.set()
            go_on.wait(10)
            return b""

    async def run_once(session: EditSession) -> None:
        output = BatchOutput(tmp_path, overwrite=False)
        requests = [EditRequest(HangingFile(), "snow")]
        given = BatchInput(requests, Reading(EditDefaults(), base=""), output)
        options = RunOptions(reporting_seconds=0.0, closing_seconds=0.0)
        async with open_run(session, output, options, "") as run:
            await edit_all(run, given, None)

    async with MemorySession(MemoryService()) as session:
        run = asyncio.create_task(run_once(session))
        await until(looks.is_set)
        run.cancel()
        with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
            await run
        await (await Journal.open(tmp_path, "a service")).aclose()
        go_on.set()


async def test_a_run_that_is_cancelled_while_its_journal_is_closed_ends_when_that_is_free(tmp_path, monkeypatch):
    closing, go = threading.Event(), threading.Event()

    class SlowDisk(sqlite3.Connection):
        def close(self):
            closing.set()
            go.wait(10)
            super().close()

    async with MemorySession(MemoryService()) as session:
        with monkeypatch.context() as patch:
            patch.setattr("sqlite3.connect", SlowDisk)
            run = asyncio.create_task(EditBatch([], tmp_path).run(session))
            await until(closing.is_set)
            for _ in range(3):
                run.cancel()
                await asyncio.sleep(0)
            assert not run.done()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await run
        await (await Journal.open(tmp_path, "a service")).aclose()
