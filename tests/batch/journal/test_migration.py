"""A journal of the first version, with edits in every state, in the hands of this one."""

from __future__ import annotations

import contextlib
import json
import sqlite3

import pytest
from bulk_runs import LOSES_SIGHT, PHOTO, columns, service

from qwen_edit_async import EditBatch, EditParameters, EditRequest, JournalError
from qwen_edit_async.batch.content import read_content
from qwen_edit_async.batch.journal import database as _store
from qwen_edit_async.batch.journal.database import Store
from qwen_edit_async.batch.journal.journal import ASIDE_NAME, JOURNAL_NAME
from qwen_edit_async.batch.plan import State, describe

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


SIGNED = "https://bucket.example/{}.png?v=1&X-Amz-Date={signature}&X-Amz-Signature={signature}"


def signed_request(signature: str) -> EditRequest:
    return EditRequest(SIGNED.format("cat", signature=signature), "snow", EditParameters(n=1, size="1024x1536"))


def signed_table(folder, signature: str):
    rows = ("a/x,,", "b/x,,", "b/x,,", "c/x,b.png,", "dog,b.png,", "emu,,mine")
    cells = [row.split(",") for row in rows]
    lines = [f"{SIGNED.format(name, signature=signature)},{other},snow,{key}" for name, other, key in cells]
    path = folder / "edits.csv"
    path.write_text("\n".join(["image,image2,instruction,key", *lines, ""]), encoding="utf-8")
    return path


def write_second_version(out, rows) -> None:
    """A journal as version 2 wrote it, which took a URL's signature for a part of its name."""
    (out / "picture.png").write_bytes(PHOTO)
    files = json.dumps([["picture.png", len(PHOTO)]])
    with contextlib.closing(sqlite3.connect(out / JOURNAL_NAME)) as connection:
        connection.executescript(f"{FIRST_VERSION} {_store._MIGRATIONS[1]} PRAGMA user_version = 2;")
        for number, (key, digest, state, request) in enumerate(rows, 1):
            task_id = f"task{number}" if state == "saved" else None
            row = (key, key, digest, "of version 2", describe(request), 1, state, task_id, files)
            connection.execute(
                "INSERT INTO edits (key, stem, digest, stamp, request, pictures, state, task_id, files) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        connection.commit()


@pytest.mark.parametrize("signature", ["old", "new"])
async def test_requests_that_were_known_by_their_signed_urls_are_not_paid_again(out, signature):
    rows = [
        ("cat-f47c53a3", "828d840177599f5f52fb3a55720cb3c19e3b4bd3", "failed", signed_request("older")),
        ("cat-42149c98", "1a918b136dcdc5e69ce897a4465c1f5b74e68648", "saved", signed_request("old")),
    ]
    write_second_version(out, rows)
    batch = EditBatch([signed_request(signature)], out)
    plan = await batch.plan()
    assert (plan.saved, plan.submit) == (1, 0)
    assert version(out) == 2
    async with service() as (emulator, session):
        report = await batch.run(session)
        assert (report.saved, report.failed, emulator.statistics().submits) == (1, 1, 0)


@pytest.mark.parametrize(("signature", "gone"), [("old", False), ("new", False), ("new", True)])
async def test_rows_that_were_known_by_their_signed_urls_are_not_paid_again(out, tmp_path, signature, gone):
    (tmp_path / "b.png").write_bytes(b"picture")
    written = [
        ("x-8ff08e26aa", "45593132c93fdb8b5d14faaddfc1c63cece8d4e1"),
        ("x-2612bb2f2e", "9e86e14973df1d7a439e954b28a8cde46824a705"),
        ("x-2612bb2f2e-2", "9e86e14973df1d7a439e954b28a8cde46824a705"),
        ("x-dcb1fb35f8", "d60556d34fe60ab4a6625fb7b6339848a563febc"),
        ("dog", "b2670b63ebc5869f238d4e92fae51f6be425d97c"),
        ("mine", "75d4297cefa67030f032fc6dcd0c7595b39bb2fb"),
    ]
    earlier = EditBatch(signed_table(tmp_path, "old"), out)
    items = earlier._input.survey(lambda _: None, lambda *_: None)
    write_second_version(
        out, [(key, digest, "saved", item.request) for (key, digest), item in zip(written, items, strict=True)]
    )
    if gone:
        (tmp_path / "b.png").unlink()
    batch = EditBatch(signed_table(tmp_path, signature), out)
    plan = await batch.plan()
    assert (plan.saved, plan.submit, plan.problem_count) == (6, 0, 0)
    async with service() as (emulator, session):
        report = await batch.run(session)
        assert (report.saved, emulator.statistics().submits) == (6, 0), report.text()


async def test_an_id_that_was_kept_under_a_former_key_is_taken_in(out):
    write_second_version(
        out, [("cat-42149c98", "1a918b136dcdc5e69ce897a4465c1f5b74e68648", "submitting", signed_request("old"))]
    )
    (out / ASIDE_NAME).write_text('["cat-42149c98", "task-of-cat"]\n', encoding="utf-8")
    async with service() as (emulator, session):
        await EditBatch([signed_request("new")], out).run(session)
        assert emulator.statistics().submits == 0
    assert dict(columns(out, "task_id", "former_key")) == {"task-of-cat": "cat-42149c98"}


@pytest.mark.parametrize(
    "change",
    [
        {"request": "{"},
        {"request": '{"images": ["https://a.example/?Expires=1"], "instruction": 5, "parameters": {}}'},
        {"request": '{"images": [null, "https://a.example/?Expires=1"], "instruction": "x", "parameters": {}}'},
        {"key": "of the user"},
    ],
)
async def test_what_was_not_made_of_a_signed_url_keeps_its_key(out, change):
    row = ("cat-42149c98", "digest", "saved", signed_request("old"))
    write_second_version(out, [row])
    with contextlib.closing(sqlite3.connect(out / JOURNAL_NAME)) as connection:
        before = dict(zip(("key", "digest"), row, strict=False)) | change
        for column, value in change.items():
            connection.execute(f"UPDATE edits SET {column} = ?", (value,))
        connection.commit()
    Store(out / JOURNAL_NAME).close()
    assert columns(out, "key", "digest") == [(before["key"], before["digest"])]
