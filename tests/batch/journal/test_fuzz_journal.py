"""A journal whose bits have flipped: a clear error, or a resume that submits nothing that has a task."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_edit_async import EditRequest, JournalError
from qwen_edit_async.batch.journal.database import Store
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME, Journal
from qwen_edit_async.batch.rules.decide import SENDS, Consent, Fingerprint, State, decide
from qwen_edit_async.batch.rules.report import BatchReport

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.may_block("the test prepares the file itself"),
]

WAYS = {
    "planned": (),
    "submitting": (State.SUBMITTING,),
    "submitted": (State.SUBMITTING, State.SUBMITTED),
    "completed": (State.SUBMITTING, State.SUBMITTED, State.COMPLETED),
    "saved": (State.SUBMITTING, State.SUBMITTED, State.COMPLETED, State.SAVED),
    "failed": (State.SUBMITTING, State.SUBMITTED, State.FAILED),
    "uncertain": (State.SUBMITTING, State.UNCERTAIN),
}
COLUMNS = {
    State.SUBMITTED: lambda key: {"task_id": f"task-of-{key}"},
    State.COMPLETED: lambda key: {"urls": json.dumps([f"https://results.example/{key}.png"]), "cost": "0.0357"},
    State.SAVED: lambda key: {"files": json.dumps([[f"{key}-0.png", 1000]])},
    State.FAILED: lambda _: {"reason": "refused", "problem": "refused"},
}
KEYS = [f"{way}-{number}" for number in range(12) for way in WAYS]
TAKEN = [key for key in KEYS if not key.startswith("planned")]


@functools.cache
def intact() -> bytes:
    """A journal with edits in every state, as an ended run leaves it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / JOURNAL_NAME
        store = Store(path)
        store.transact([functools.partial(add, store, key) for key in KEYS])
        store.close()
        return path.read_bytes()


def add(store: Store, key: str) -> None:
    request = EditRequest(f"photos/{key}.jpg", "make it snow", key=key)
    number = store.plan(key, request, Fingerprint("d" * 40, "s" * 40)).number
    for state in WAYS[key.rpartition("-")[0]]:
        store.move(number, state, **COLUMNS.get(state, lambda _: {})(key))


@st.composite
def damages(draw) -> Callable[[bytearray], None]:
    kind = draw(st.sampled_from(["bits", "bits", "bits", "zeros", "noise", "end"]))
    where = draw(st.lists(st.integers(0, len(intact()) * 8 - 1), min_size=1, max_size=4 if kind == "bits" else 1))
    noise = draw(st.binary(min_size=1, max_size=64)) if kind == "noise" else bytes(512)

    def apply(content: bytearray) -> None:
        for position in where:
            byte, bit = divmod(position, 8)
            if kind == "bits":
                content[byte] ^= 1 << bit
            elif kind == "end":
                del content[byte:]
            else:
                content[byte : byte + len(noise)] = noise

    return apply


def damage_row(folder: Path, key: str, change: str) -> None:
    """Make a journal in which that was done to an edit."""
    (folder / JOURNAL_NAME).write_bytes(intact())
    with contextlib.closing(sqlite3.connect(folder / JOURNAL_NAME)) as connection:
        connection.execute(f"UPDATE edits SET {change} WHERE key = '{key}'")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def fresh_keys(content: bytes) -> set[str]:
    """Which of the edits that were submitted a resumed run would submit again, without being asked to."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / JOURNAL_NAME).write_bytes(content)
        (Path(folder) / "report.json").write_text(BatchReport(folder=folder, elapsed=1.0).to_json())
        journal = await Journal.open(Path(folder), "a service")
        try:
            await journal.do(Store.recover)
            await journal.do(Store.unfinished, 0, 256)
            # At once: each alone would wait whether others join in.
            found = await asyncio.gather(*(journal.do(Store.find, key) for key in TAKEN))
            await journal.do(Store.summary)
            return {
                key for key, entry in zip(TAKEN, found, strict=True) if decide(entry, Fingerprint(), Consent()) in SENDS
            }
        finally:
            await journal.aclose()


async def test_a_whole_journal_is_resumed():
    assert await fresh_keys(intact()) == set()


@pytest.mark.parametrize("key", ["submitted-3", "saved-11"])
async def test_a_flipped_bit_in_an_identity_is_found_wherever_the_file_has_it(key):
    places = [match.start() for match in re.finditer(key.encode(), intact())]
    errors = 0
    for place in places:
        content = bytearray(intact())
        content[place + 2] ^= 1
        try:
            assert await fresh_keys(bytes(content)) == set()
        except JournalError as error:
            errors += "damaged" in str(error)
    assert errors >= 2  # in the table, and in the index by which identities are found


@pytest.mark.parametrize(
    "change",
    [
        "state = 'submittex'",
        "task_id = NULL",
        "task_id = CAST(task_id AS BLOB)",
        "identity = CAST(identity AS BLOB)",
        "identity = NULL",
        "name = CAST(name AS BLOB)",
        "urls = '[broken'",
        "urls = '5'",
        "files = '[5]'",
    ],
)
async def test_what_no_run_writes_is_a_damaged_journal(change, tmp_path):
    damage_row(tmp_path, "submitted-3", change)
    with pytest.raises(JournalError, match="damaged"):
        await fresh_keys((tmp_path / JOURNAL_NAME).read_bytes())


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("saved-3", "identity = CAST(identity AS BLOB)"),
        ("saved-3", "task_id = CAST(task_id AS BLOB)"),
        ("submitted-3", "task_id = char(17) || substr(task_id, 2)"),
        ("submitted-3", "task_id = CAST(x'f4' || substr(task_id, 2) AS TEXT)"),
        ("saved-3", "pictures = 0"),
        ("planned-3", "pictures = 7"),
        ("planned-3", "request = substr(request, 2)"),
        ("planned-3", "request = CAST(x'f4' || substr(request, 2) AS TEXT)"),
        ("planned-3", "request = replace(request, 'instruction', 'inspruction')"),
        ("submitted-3", "queued = x'00'"),
        ("submitting-3", "files = '[5]'"),
        ("uncertain-3", "attempts = 'once'"),
    ],
    ids=[
        "identity is no text",
        "id is no text",
        "id has a control character",
        "id is no UTF-8",
        "no pictures",
        "too many pictures",
        "request is no JSON",
        "request is no UTF-8",
        "request has no instruction",
        "time is no number",
        "files have no names",
        "attempts are no number",
    ],
)
async def test_what_no_run_writes_is_found_before_anything_is_submitted(key, change, tmp_path):
    damage_row(tmp_path, key, change)
    before = (tmp_path / JOURNAL_NAME).read_bytes()
    with pytest.raises(JournalError, match=r"damaged|not decode"):
        Store(tmp_path / JOURNAL_NAME)
    assert (tmp_path / JOURNAL_NAME).read_bytes() == before


@pytest.mark.parametrize("change", ["request = '{'", "queued = x'00'"])
@pytest.mark.parametrize("key", ["saved-3", "failed-3"])
async def test_damage_that_can_cost_nothing_more_refuses_no_journal(key, change, tmp_path):
    damage_row(tmp_path, key, change)
    assert await fresh_keys((tmp_path / JOURNAL_NAME).read_bytes()) == set()


@pytest.mark.parametrize("content", [b"", b"S", b"\0", bytes(99), bytes(512)])
async def test_of_a_journal_without_content_no_new_one_is_made(content):
    with pytest.raises(JournalError):
        await fresh_keys(content)


@pytest.mark.fuzz
@given(damages())
async def test_a_damaged_journal_is_a_clear_error_or_resumed_rightly(damage):
    content = bytearray(intact())
    damage(content)
    try:
        assert await fresh_keys(bytes(content)) == set()
    except JournalError as error:
        assert str(error)  # noqa: PT017  # either way is right
