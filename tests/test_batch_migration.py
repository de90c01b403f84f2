"""A journal of the first version, with edits in every state, in the hands of this one."""

from __future__ import annotations

import contextlib
import json
import sqlite3

import pytest
from test_batch_run import LOSES_SIGHT, PHOTO, columns, service

from qwen_edit_async import EditBatch, JournalError
from qwen_edit_async._batch import _store
from qwen_edit_async._batch._content import read_content
from qwen_edit_async._batch._journal import JOURNAL_NAME
from qwen_edit_async._batch._plan import State, describe
from qwen_edit_async._batch._store import Store

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("no_backoff"),
    pytest.mark.may_block("the test makes the journal"),
]

STATES = [state for state in State if state is not State.REPLACED]
"""Those of the first version."""

FIRST_VERSION = """
CREATE TABLE edits (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, stem TEXT NOT NULL UNIQUE COLLATE NOCASE,
    digest TEXT NOT NULL, stamp TEXT NOT NULL, request TEXT NOT NULL, pictures INTEGER NOT NULL, state TEXT NOT NULL,
    task_id TEXT, urls TEXT, usage TEXT, cost TEXT, files TEXT, reason TEXT, problem TEXT,
    attempts INTEGER NOT NULL DEFAULT 0, repeats INTEGER NOT NULL DEFAULT 0,
    queued REAL, running REAL, lag REAL, checks INTEGER
);
PRAGMA application_id = 1364673860;
PRAGMA user_version = 1;
"""


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for state in STATES:
        (folder / f"{state.value}.png").write_bytes(PHOTO)
    return folder


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def write_first_version(batch: EditBatch, rows: dict[State, dict[str, object]]) -> None:
    """A journal as version 1 wrote it: an edit in each state, of the picture that is called so."""
    with contextlib.closing(sqlite3.connect(batch.journal)) as connection:
        connection.executescript(FIRST_VERSION)
        for item in batch._input.survey(lambda _: None, lambda *_: None):
            request = item.request
            content = read_content(request)
            row = {"key": content.key, "stem": content.key, "digest": content.digest, "stamp": "of version 1"}
            row |= {"request": describe(request), "pictures": 1, "state": content.key}
            row |= rows.get(State(content.key), {})
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO edits ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
        connection.commit()


def version(out) -> int:
    with contextlib.closing(sqlite3.connect(out / JOURNAL_NAME)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


async def test_edits_in_every_state_are_gone_on_with(photos, out, tmp_path):
    batch = EditBatch(photos, out, instruction="snow")
    async with service(LOSES_SIGHT.times(3)) as (emulator, session):
        earlier = EditBatch(photos, tmp_path / "earlier", instruction="snow", max_tasks=3)
        assert (await earlier.run(session)).in_flight == 3
        flying, done, saved = emulator.tasks
        urls = {task_id: [image.url for image in (await session.attach(task_id)).images] for task_id in (done, saved)}
        (picture,) = await (await session.attach(saved)).save(out)
        picture = picture.rename(out / "saved-0.png")
        write_first_version(
            batch,
            {
                State.SUBMITTED: {"task_id": flying},
                State.COMPLETED: {"task_id": done, "urls": json.dumps(urls[done]), "cost": "0.0357"},
                State.SAVED: {
                    "task_id": saved,
                    "urls": json.dumps(urls[saved]),
                    "cost": "0.0357",
                    "files": json.dumps([[picture.name, picture.stat().st_size]]),
                },
                State.FAILED: {"reason": "refused", "problem": "refused"},
            },
        )
        plan = await batch.plan()
        assert (plan.submit, plan.attach, plan.download, plan.tasks) == (2, 1, 1, 4)
        assert version(out) == 1  # looking at it changes nothing

        report = await batch.run(session)

        assert version(out) == len(_store._MIGRATIONS) > 1
        assert (report.saved, report.uncertain, report.failed) == (5, 2, 0)
        assert emulator.statistics().tasks_created == 3 + 2  # those that were planned, or had failed unpaid
        assert dict(columns(out, "key", "state")) == {
            state.value: "uncertain" if state in {State.SUBMITTING, State.UNCERTAIN} else "saved" for state in STATES
        }
        report = await EditBatch(photos, out, instruction="snow", resubmit_uncertain=True).run(session)
        assert (report.ok, report.saved, report.repeats) == (True, 7, 2)
    async with service() as (_, other_session):  # whose tasks they are was not known before
        with pytest.raises(JournalError, match=f"has tasks of {emulator.url}"):
            await EditBatch(photos, out, instruction="snow").run(other_session)


async def test_a_new_journal_and_a_migrated_one_are_the_same(photos, out, tmp_path):
    write_first_version(EditBatch(photos, out, instruction="snow"), {})
    with contextlib.closing(sqlite3.connect(out / JOURNAL_NAME)) as connection:
        connection.execute("DELETE FROM edits WHERE state NOT IN ('planned')")
        connection.commit()
    schemas = []
    for path in (out / JOURNAL_NAME, tmp_path / JOURNAL_NAME):
        Store(path).close()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            schemas.append({name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in tables})
    assert schemas[0] == schemas[1]
