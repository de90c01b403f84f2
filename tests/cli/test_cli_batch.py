"""``qwen-edit batch``."""

from __future__ import annotations

import contextlib
import functools
import io
import signal
import struct

import pytest
from commands import QUICK, saved, start_command
from PIL import Image

from qwen_edit_async import ConfigurationError, SubmitUncertainError
from qwen_edit_async.batch.journal.journal import LOCK_NAME
from qwen_edit_async.batch.journal.lock import run_lock
from qwen_edit_async.cli import main
from qwen_edit_async.cli.command import Command
from qwen_edit_async.cli.display import Screen
from qwen_edit_async.cli.options import ConnectionOptions, SubmissionOptions
from qwen_edit_async.emulator import EditEmulator, Fault


@pytest.fixture
def scan(tmp_path):
    """A TIFF picture with a tag whose value lies beyond the end of the file."""
    file = io.BytesIO()
    Image.new("RGB", (400, 400)).save(file, "TIFF", dpi=(72, 72))
    content = bytearray(file.getvalue())
    (directory,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, directory)
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        if struct.unpack_from("<H", content, entry) == (X_RESOLUTION,):
            struct.pack_into("<II", content, entry + 4, 5000, len(content) - 4)
    path = tmp_path / "scan.tif"
    path.write_bytes(content)
    return path


X_RESOLUTION = 282


def test_a_folder_is_edited_and_the_last_line_says_where(photos, batch, out, capsys, service):
    assert batch(photos) == 0
    assert saved(out) == ["a-0.png", "b-0.png", "c-0.png"]
    captured = capsys.readouterr()
    assert captured.out == f"3 pictures are in {out}\n"
    assert f"3 of 3 edits done, 3 pictures in {out}\ncost 0.1071 · " in captured.err
    assert "run it again" not in captured.err
    assert len(service.tasks) == 3


def test_the_page_is_named_and_optional(photos, batch, out, capsys, service):
    assert batch(photos) == 0
    assert f"\nbefore and after: {out / 'report.html'}\n" in capsys.readouterr().err
    (out / "report.html").unlink()
    assert batch(photos, "--gallery-limit", "0") == 0
    assert "before and after" not in capsys.readouterr().err
    assert not (out / "report.html").exists()


def test_a_page_that_cannot_be_written_is_a_warning(photos, batch, out, capsys, service):
    (out / "report.html").mkdir(parents=True)
    assert batch(photos) == 0
    assert "\nreport.html could not be written: Is a directory\n" in capsys.readouterr().err
    assert saved(out) == ["a-0.png", "b-0.png", "c-0.png"]


def test_results_are_png_files(photos, batch, out, service):
    batch(photos)
    with Image.open(out / "b-0.png") as picture:
        assert picture.format == "PNG"


def test_one_picture_is_a_source_as_well(photos, batch, out, capsys, service):
    assert batch(photos / "b.jpg") == 0
    assert capsys.readouterr().out == f"1 picture is in {out}\n"


def test_a_pattern_is_a_source(photos, batch, out, service):
    assert batch(photos / "*.[jp][pn]g") == 0
    assert saved(out) == ["a-0.png", "b-0.png"]


def test_every_picture_of_an_edit_is_saved(photos, batch, out, service):
    assert batch(photos / "b.jpg", "-n", "3") == 0
    assert saved(out) == ["b-0.png", "b-1.png", "b-2.png"]


def test_a_tables_keys_instructions_and_parameters_win(table, batch, out, service):
    rows = [{"image": "a.png", "key": "first", "instruction": "sepia", "seed": 5}, {"image": "b.jpg"}]
    assert batch(table(*rows), "--seed", "9") == 0
    assert saved(out) == ["b-0.png", "first-0.png"]
    sent = {(task.submission.instruction, task.submission.seed) for task in service.tasks.values()}
    assert sent == {("sepia", 5), ("snow", 9)}


def test_bad_rows_count_as_failed_and_do_not_stop_the_others(table, batch, out, capsys, service):
    rows = [{"image": "a.png", "n": 7}, {"image": "b.jpg"}, {"image": "c.webp", "n": 7}]
    assert batch(table(*rows)) == 1
    assert saved(out) == ["b-0.png"]
    captured = capsys.readouterr()
    assert "\n2 × n is 7: give an integer from 1 to 6: row 1, row 3\n" in captured.err
    assert "\n  2 refused: malformed" in captured.err
    assert "1 of 3 edits done" in captured.err
    assert captured.out == f"1 picture is in {out}\n"


def test_pictures_that_only_fit_can_make_ready_count_as_failed_without_it(photos, batch, out, capsys, service):
    Image.new("RGB", (400, 400)).save(photos / "odd.avif", "AVIF")
    assert batch(photos, "--dry-run") == 1
    assert batch(photos) == 1
    assert "odd.avif is in AVIF format, which the service refuses" in capsys.readouterr().err.replace(":", "")
    assert batch(photos, "--fit", "--dry-run") == 0
    assert batch(photos, "--fit") == 0
    assert (out / "odd-0.png").exists()


def test_failures_are_grouped_by_reason_the_most_frequent_first(table, batch, capsys, service):
    service.inject(Fault.failed_task(110001, "refused by moderation").for_task(1, 2))
    rows = [{"image": "missing.png", "key": "x"}, *({"image": "a.png", "key": key} for key in "pqr")]
    assert batch(table(*rows), "--concurrency", "1") == 1
    assert (
        "\n2 × refused by moderation (code 110001): p, q\n1 × image 1 does not exist: x\n"
    ) in capsys.readouterr().err


def test_a_long_list_of_failures_is_cut_short(table, batch, capsys, service):
    assert batch(table(*({"image": "missing.png", "key": f"k{number}"} for number in range(60)))) == 1
    assert "\n60 × image 1 does not exist: k0, k1, k2, k3, k4, …\n" in (text := capsys.readouterr().err)
    assert "\nrun it again to go on: " in text  # the picture may be there by then


def test_failures_at_the_service_are_not_offered_for_another_run(photos, batch, capsys, service):
    service.inject(Fault.failed_task())
    assert batch(photos) == 1
    assert "run it again" not in capsys.readouterr().err


def test_rows_with_the_same_problem_are_one_line_of_the_plan_and_of_the_run(table, batch, capsys, service):
    source = table(*({"image": f"missing-{number}.png"} for number in range(7)), {"image": "a.png"})
    line = "  7 × image 1 does not exist: row 1, row 2, row 3, row 4, row 5, …\n"
    assert batch(source, "--dry-run") == 1
    assert f"7 of 8 rows can't be edited:\n{line}" in capsys.readouterr().out
    assert batch(source) == 1
    assert f"warning: 7 of 8 rows can't be edited:\n{line}" in capsys.readouterr().err


def test_other_refusals_of_the_service_are_grouped_as_well(photos, batch, capsys, service):
    service.inject(Fault.status(400, message="not today", code=17).on("submit"))
    assert batch(photos) == 1
    assert "\n3 × not today (HTTP 400, code 17): " in capsys.readouterr().err


def test_concurrency_bounds_the_tasks_in_flight(photos, batch, service):
    assert batch(photos, "--concurrency", "2") == 0
    assert service.statistics().peak_unfinished <= 2


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_credential_error_stops_the_run_with_exit_code_3(table, batch, capsys, service, status):
    service.inject(Fault.status(status).on("submit").nth(2))
    rows = [{"image": "a.png", "key": f"k{number}"} for number in range(20)]
    assert batch(table(*rows), "--concurrency", "1") == 3
    text = capsys.readouterr().err
    assert f"(HTTP {status}" in text
    assert "1 of 20 edits done, 1 picture" in text
    assert "\n  19 not submitted yet\n" in text
    assert len(service.tasks) == 1


def test_without_a_key_nothing_is_reported(photos, batch, capsys, monkeypatch):
    monkeypatch.delenv("QWEN_EDIT_API_KEY", raising=False)
    assert batch(photos) == 3
    captured = capsys.readouterr()
    assert "export QWEN_EDIT_API_KEY=…" in captured.err
    assert captured.out == ""


def test_existing_files_are_not_overwritten(photos, batch, out, capsys, service):
    out.mkdir()
    (out / "b-0.png").write_bytes(b"precious")
    assert batch(photos) == 1
    text = capsys.readouterr().err
    assert "warning: 1 of 3 rows can't be edited" in text
    assert "give this edit another key (the name of its files), or use --overwrite" in text
    assert (out / "b-0.png").read_bytes() == b"precious"
    assert len(service.tasks) == 2


def test_existing_files_are_overwritten_on_request(photos, batch, out, service):
    out.mkdir()
    (out / "b-0.png").write_bytes(b"old")
    assert batch(photos, "--overwrite") == 0
    assert (out / "b-0.png").read_bytes() != b"old"


@pytest.mark.parametrize(
    ("source", "message"),
    [("nothing", "there is no file or folder"), ("photos/*.bmp", "in the files that match")],
)
def test_a_source_without_edits_is_exit_code_2(photos, batch, capsys, service, source, message):  # noqa: PLR0917  # fixtures
    assert batch(photos.parent / source) == 2
    assert message in capsys.readouterr().err


def test_pictures_without_an_instruction_are_exit_code_2(photos, batch, capsys, service):
    assert batch(photos, instruction=None) == 2
    assert "give an instruction" in capsys.readouterr().err


def test_the_output_folder_must_not_be_the_input_folder(photos, capsys, service):
    assert main(["batch", str(photos), "-i", "snow", "-o", str(photos / ".." / "photos")]) == 2
    assert "use another output folder" in capsys.readouterr().err


def test_results_below_the_pictures_are_not_edited_again(photos, capsys, service):
    for _ in range(2):
        arguments = ["batch", str(photos), "-i", "snow", "-o", str(photos / "out"), "--recursive", "--overwrite"]
        assert main([*arguments, *QUICK]) == 0
    assert len(service.tasks) == 3


def test_pictures_with_the_same_name_get_different_names_and_a_note(photos, batch, out, capsys, service):
    Image.new("RGB", (400, 400)).save(photos / "a.bmp")
    assert batch(photos / "a.*") == 0
    assert saved(out) == ["a-0.png", "a-2-0.png"]
    assert "note: 1 result renamed, because the name is taken: a-2 instead of a" in capsys.readouterr().err


def test_many_notes_of_one_kind_are_counted(tmp_path, batch, capsys, service):
    for number in range(6):
        Image.new("RGB", (100, 100)).save(tmp_path / f"{number}.png")
    assert batch(tmp_path / "*.png") == 0
    text = capsys.readouterr().err
    assert text.count("note: image 1 (") == 3
    assert "note: 3 more: expect a blurred picture" in text


def test_a_locked_journal_is_the_only_message(photos, batch, out, capsys, service):
    out.mkdir()
    with run_lock(out / LOCK_NAME):
        assert batch(photos) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {out} is in use by another run")
    assert (captured.err.count("\n"), captured.out) == (1, "")


@pytest.mark.parametrize("option", [("--price", "0.03"), ("--ask-price",)])
def test_a_price_that_limits_nothing_is_refused(option, photos, batch, capsys, service):
    assert batch(photos, *option) == 2
    assert "or --max-cost" in capsys.readouterr().err
    assert not service.tasks


def test_a_failed_download_is_fetched_by_the_same_command(photos, batch, out, capsys, service):
    service.inject(Fault.status(404).on("download").times(2))
    assert batch(photos / "a.png") == 1
    text = capsys.readouterr().err
    assert "1 × image 0 of task … could not be downloaded" in text
    assert "\nrun it again to go on: " in text
    assert batch(photos / "a.png") == 0
    assert saved(out) == ["a-0.png"]
    assert len(service.tasks) == 1


def test_failing_downloads_are_reported_during_the_run(photos, tmp_path, service):
    service.inject(Fault.status(403).on("download"), Fault.stuck_task().for_task(1))
    for number in range(40):
        (photos / f"p{number}.png").write_bytes((photos / "a.png").read_bytes())
    arguments = ["batch", str(photos), "-i", "snow", "-o", str(tmp_path / "out"), "-c", "4", *QUICK]
    with start_command(*arguments) as process:
        told = next(line for line in process.stderr if line.startswith("warning: "))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert "the pictures of 3 completed edits in a row could not be saved: image 0 of task " in told
    assert told.endswith("its host answered 403; nothing more is submitted until an edit is saved\n")
    assert "warning: " not in errors
    assert len(service.tasks) < 40


def test_the_same_command_again_does_nothing_more(photos, batch, out, capsys, service):
    for _ in range(2):
        assert batch(photos) == 0
        assert capsys.readouterr().out == f"3 pictures are in {out}\n"
    assert len(service.tasks) == 3


def test_the_pictures_of_rows_that_the_run_did_not_reach_are_counted(photos, batch, out, capsys, service):
    table, rows = photos / "table.csv", [f"a.png,e{number}" for number in range(20)]
    for order in (rows, rows[::-1]):
        table.write_text("\n".join(["image,key", *order]))
        assert batch(table, "--max-tasks", "1", "--concurrency", "1") == 1
        assert capsys.readouterr().out == f"1 picture is in {out}\n"
    assert len(service.tasks) == 1


def test_another_instruction_for_the_same_results_is_refused(photos, batch, capsys, service):
    batch(photos)
    assert batch(photos, instruction="rain") == 1
    assert "3 × the picture, the instruction or a parameter has changed since an earlier run" in (
        text := capsys.readouterr().err
    )
    assert "run it again" not in text
    assert len(service.tasks) == 3


def test_edit_changed_edits_again_with_another_instruction(photos, batch, out, capsys, service):  # fixtures
    batch(photos)
    assert batch(photos, instruction="rain") == 1
    assert "with --edit-changed" in capsys.readouterr().err
    assert batch(photos, "--edit-changed", instruction="rain") == 0
    assert len(service.tasks) == 6
    assert len(saved(out)) == 6


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [("--max-tasks", "2", "stopped: 2 tasks created"), ("--max-cost", "0.08", "stopped: 0.0714 was spent")],
)
def test_a_limit_ends_the_run_and_a_higher_one_continues(photos, batch, capsys, limit, value, words, service):  # noqa: PLR0917  # fixtures
    assert batch(photos, limit, value) == 1
    assert words in (text := capsys.readouterr().err)
    assert "2 of 3 edits done" in text
    assert "\n  1 not submitted yet\n" in text
    assert f"\nrun it again with a higher {limit} to go on: " in text
    assert batch(photos) == 0
    assert len(service.tasks) == 3


def test_a_service_without_prices_ends_a_run_with_a_limit_of_cost(photos, batch, capsys, service):
    service.inject(Fault.reshape(lambda reply: {**reply, "usage": None}).on("check"))
    assert batch(photos, "--max-cost", "1", "--concurrency", "1") == 1
    text = capsys.readouterr().err
    assert "stopped: the service does not say what edits cost: use --max-tasks instead of --max-cost\n" in text
    assert "\nrun it again to go on: " in text


def test_after_a_lost_reply_a_run_with_a_cost_limit_needs_a_price(photos, batch, capsys, service):
    service.inject(Fault.drop_reply().on("submit").nth(1))
    assert batch(photos, "--max-cost", "1", "--concurrency", "1") == 1
    text = capsys.readouterr().err
    advice = "give the price of a picture as --price=…, or use --max-tasks instead of --max-cost"
    assert f"no price is known: {advice}\n" in text
    assert len(service.tasks) == 1
    assert batch(photos, "--max-cost", "1", "--ask-price") == 1
    assert "2 of 3 edits done" in capsys.readouterr().err
    assert len(service.tasks) == 3


def test_failures_end_the_run_on_request(photos, batch, capsys, service):
    service.inject(Fault.failed_task())
    assert batch(photos, "--stop-after-failures", "1", "--concurrency", "1") == 1
    assert "stopped: 1 edit failed" in (text := capsys.readouterr().err)
    assert "\nrun it again to go on: " in text
    assert len(service.tasks) == 1


def test_uncertain_submissions_are_repeated_only_on_request(photos, batch, capsys, service):
    service.inject(Fault.drop_reply().on("submit").nth(1))
    for _ in range(2):
        assert batch(photos / "a.png") == 1
        text = capsys.readouterr().err
        assert "\n  1 uncertain: a task may exist, and be charged\n" in text
        assert "\nuncertain (submitted again only with --resubmit-uncertain): a\n" in text
        assert "failed" not in text
        assert "run it again" not in text  # which would change nothing
        assert len(service.tasks) == 1
    assert batch(photos / "a.png", "--resubmit-uncertain") == 0
    assert len(service.tasks) == 2


def test_edits_go_on_while_a_picture_is_downloaded(photos, batch, out, service):
    service.inject(Fault.slow(delay=0.5).on("download").nth(1))
    assert batch(photos, "--concurrency", "1") == 0
    requests = [(request.method, request.path) for request in service.requests]
    first_download = next(index for index, (_, path) in enumerate(requests) if not path.startswith("/model"))
    assert ("POST", "/model/v1/generation") in requests[first_download + 1 :]


def test_tasks_that_ended_with_an_embedded_service_are_repeated_only_on_request(photos, batch, capsys, monkeypatch):
    with monkeypatch.context() as slow:
        slow.setattr("qwen_edit_async.emulator.EditEmulator", functools.partial(EditEmulator, duration=3600.0))
        assert batch(photos, "--emulator", "--deadline", "0.5") == 1
    assert batch(photos, "--emulator") == 1
    text = capsys.readouterr().err
    assert "3 × the service does not know the task or has forgotten it; the task may have been charged: a, b, c" in text
    assert "\nuncertain (submitted again only with --resubmit-uncertain): a, b, c\n" in text
    assert batch(photos, "--emulator", "--resubmit-uncertain") == 0
    assert "3 of 3 edits done" in capsys.readouterr().err


def test_a_folder_of_the_embedded_service_is_refused_for_the_model_and_vice_versa(
    photos, batch, tmp_path, capsys, service
):
    assert batch(photos, "--emulator") == 0
    assert batch(photos) == 1
    assert f"has tasks of the embedded service, but this run uses {service.url};" in capsys.readouterr().err
    assert not service.tasks
    real = "batch", str(photos), "-i", "snow", "-o", str(tmp_path / "real"), *QUICK
    assert main([*real]) == 0
    capsys.readouterr()
    assert main([*real, "--emulator"]) == 1
    assert f"has tasks of {service.url}, but this run uses the embedded service;" in capsys.readouterr().err


def test_tasks_that_the_journal_could_not_keep_are_named_and_not_submitted_again(
    photos, batch, capsys, full_disk, service
):
    assert batch(photos / "a.png") == 1
    full_disk.is_full = False
    (task_id,) = service.tasks
    text = capsys.readouterr().err
    note = f"task {task_id} of 'a' is not in the journal: qwen-edit fetch {task_id} gets its result"
    assert f"the disk is full\n{note}\n" in text
    assert batch(photos / "a.png") == 1  # uncertain
    assert len(service.tasks) == 1
    assert main(["fetch", task_id, "-o", str(photos / "fetched"), *QUICK]) == 0


def test_only_this_runs_tasks_are_reported_as_lost_with_the_embedded_service(photos, capsys):
    async def work(session):
        session.attach("task-of-an-earlier-run")
        await session.submit(photos / "a.png", "snow")
        return 0

    assert Command(Screen(), ConnectionOptions(), SubmissionOptions(emulator=True), output=photos)(work) == 0
    assert "the emulator stops, and loses 1 task" in capsys.readouterr().err


def test_a_dry_run_needs_no_key_and_writes_nothing(table, batch, out, capsys, monkeypatch):
    monkeypatch.delenv("QWEN_EDIT_API_KEY", raising=False)
    rows = [{"image": "a.png", "n": 2}, {"image": "b.jpg"}, {"image": "missing.png"}, {"image": "c.webp", "shop": 5}]
    assert batch(table(*rows), "--dry-run", "--price", "0.03") == 1
    captured = capsys.readouterr()
    assert "4 rows read" in captured.out
    assert "  3 to submit: 4 pictures, about 0.12 at 0.03 a picture\n" in captured.out
    assert "1 of 4 rows can't be edited:\n  row 3: image 1 (" in captured.out
    assert "note: columns that are not used: shop" in captured.out
    assert captured.err == ""
    assert not out.exists()


def test_a_price_is_given_or_asked_for_not_both(photos, batch, capsys):
    assert batch(photos, "--dry-run", "--price", "1", "--ask-price") == 2
    assert "--price and --ask-price exclude each other" in capsys.readouterr().err


def test_a_dry_run_asks_for_the_price_and_creates_nothing(photos, batch, out, capsys, service):
    assert batch(photos, "--dry-run", "--ask-price", "-n", "2") == 0
    captured = capsys.readouterr()
    assert "3 to submit: 6 pictures, about 0.2142 at 0.0357 a picture\n" in captured.out
    assert captured.err == "note: the service charges 0.0357 USD a picture\n"
    assert (service.statistics().precharges, len(service.tasks), out.exists()) == (1, 0, False)


def test_a_gateway_without_prices_is_told_before_anything_is_read(photos, batch, capsys, service):
    assert batch(photos, "--dry-run", "--ask-price", "--protocol", "queue") == 2
    advice = "give a bulk run or hub the price of a picture as --price=…"
    said = f"error: the protocol 'queue' can't tell what an edit costs; {advice}\n"
    assert capsys.readouterr() == ("", said)


def test_a_run_starts_from_the_price_that_it_asked_for(photos, batch, capsys, service):
    assert batch(photos, "--max-cost", "0.08", "--ask-price") == 1
    assert "0.0714 was spent, and the next edit could exceed --max-cost=0.08" in capsys.readouterr().err
    assert len(service.tasks) == 2
    assert batch(photos, "--max-cost", "0.03", "--price", "0.0357") == 1
    assert len(service.tasks) == 2


def test_a_dry_run_of_good_rows_is_exit_code_0_and_names_shell_options(photos, batch, capsys, service):
    service.inject(Fault.drop_reply().on("submit").nth(1))
    assert batch(photos / "a.png") == 1
    capsys.readouterr()
    assert batch(photos / "a.png", "--dry-run") == 0
    assert "1 uncertain: a task may exist; submitted again only with --resubmit-uncertain" in capsys.readouterr().out


def test_a_dry_run_names_what_is_wrong_with_the_journal(photos, batch, out, capsys):
    out.mkdir()
    (out / "qwen-edit-journal.sqlite3").write_bytes(b"no database" * 100)
    assert batch(photos, "--dry-run") == 1
    assert "error: the journal" in capsys.readouterr().err


def test_a_strict_batch_with_a_bad_row_sends_nothing(table, batch, out, capsys, service):
    assert batch(table({"image": "a.png", "n": 7}, {"image": "b.jpg"}), "--strict") == 2
    assert "error: nothing was sent, because the batch is strict: 1 of 2 rows" in (text := capsys.readouterr().err)
    assert "edits done" not in text
    assert not service.tasks
    assert not saved(out)


def test_bad_rows_are_reported_before_anything_is_sent(table, batch, capsys, service):
    service.inject(Fault.status(401).on("submit"))
    assert batch(table({"image": "a.png", "n": 7}, {"image": "b.jpg"})) == 3
    assert "warning: 1 of 2 rows can't be edited:\n  row 1: n is 7" in capsys.readouterr().err


def test_warnings_of_pillow_are_not_shown(scan, out, service):
    with start_command("batch", str(scan), "-i", "snow", "-o", str(out), *QUICK) as process:
        _, errors = process.communicate()
    assert (process.returncode, len(saved(out))) == (0, 1)
    assert "UserWarning" not in errors


@pytest.mark.parametrize(("edits", "replies", "code"), [(0, True, 2), (1, True, 1), (1, False, 1)])
def test_the_exit_code_for_wrong_usage_means_that_nothing_was_sent(capsys, service, edits, replies, code):
    if not replies:
        service.inject(Fault.drop_reply().on("submit"))

    async def work(session):
        for _ in range(edits):
            with contextlib.nullcontext() if replies else pytest.raises(SubmitUncertainError):
                await session.edit("http://127.0.0.1:9/cat.png", "make it snow")
        raise ConfigurationError("the folder can't be read")

    assert Command(Screen(), ConnectionOptions(), SubmissionOptions())(work) == code
    assert "the folder can't be read" in capsys.readouterr().err
