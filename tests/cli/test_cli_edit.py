"""``qwen-edit edit``."""

from __future__ import annotations

import asyncio
import errno
import json
import signal
from functools import partial

import pytest
from commands import API_KEY, QUICK, is_png, run_edit, start_command, wait_while_running
from PIL import Image

from qwen_edit_async import EditSession
from qwen_edit_async.cli import main
from qwen_edit_async.emulator import Fault
from qwen_edit_async.events import EditEnded


def submission(service):
    [task] = service.tasks.values()
    return task.submission


@pytest.mark.usefixtures("no_key")
def test_the_embedded_service_needs_no_key_and_says_what_it_is(photos, capsys):
    assert run_edit(photos, "--emulator") == 0
    captured = capsys.readouterr()
    assert "the emulator, not the model, makes these pictures" in captured.err
    assert is_png(captured.out.strip())


def test_edit_prints_the_files_that_it_saved(photos, tmp_path, capsys, service):
    assert run_edit(photos, "-n", "2") == 0
    [task_id] = service.tasks
    files = capsys.readouterr().out.splitlines()
    assert files == [str(tmp_path / "out" / f"a-{task_id}-{index}.png") for index in range(2)]
    assert all(is_png(file) for file in files)


def test_edit_saves_into_the_current_folder(photos, tmp_path, capsys, monkeypatch, service):
    monkeypatch.chdir(tmp_path)
    assert main(["edit", str(photos / "a.png"), "-i", "snow", *QUICK]) == 0
    assert (tmp_path / capsys.readouterr().out.strip()).exists()


def test_every_parameter_reaches_the_service(photos, service):
    options = ["--size", "1024x1536", "--negative-prompt", "-blur", "--seed", "7", "--no-prompt-extend", "--watermark"]
    assert run_edit(photos, "--n", "2", *options) == 0
    sent = submission(service)
    assert (sent.n, tuple(sent.size), sent.negative_prompt, sent.seed) == (2, (1024, 1536), "-blur", 7)
    assert (sent.prompt_extend, sent.watermark) == (False, True)


def test_a_task_that_ends_at_the_moment_of_an_interrupt_is_named(photos, capsys, monkeypatch, service):
    def interrupt(event):
        if isinstance(event, EditEnded):  # the command has not seen the result yet
            [command] = [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "_main"]
            command.cancel()

    monkeypatch.setattr("qwen_edit_async.session.session.EditSession", partial(EditSession, on_event=interrupt))
    assert run_edit(photos) == 130
    [task_id] = service.tasks
    assert f"qwen-edit fetch {task_id}" in capsys.readouterr().err


def test_an_invalid_url_is_wrong_usage(capsys, service):
    assert main(["edit", "http://[::1/a.png", "-i", "snow", *QUICK]) == 2
    assert "image 1 is not a valid URL" in capsys.readouterr().err
    assert not service.tasks


@pytest.mark.parametrize("protocol", ["generation", "queue", "dashscope"])
def test_the_protocol_is_an_option(photos, service, protocol):
    assert run_edit(photos, "--protocol", protocol) == 0
    assert {task.protocol for task in service.tasks.values()} == {protocol}


def test_the_protocol_can_be_in_the_environment(photos, service, monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_PROTOCOL", "dashscope")
    assert run_edit(photos) == 0
    assert {task.protocol for task in service.tasks.values()} == {"dashscope"}


def test_a_result_that_is_lost_is_not_offered_where_there_are_no_tasks(photos, service, capsys):
    service.inject(Fault.expired_url())
    assert run_edit(photos, "--protocol", "dashscope") == 1
    errors = capsys.readouterr().err
    assert "this protocol can't give another" in errors
    assert "1 task of this run may be charged. No pictures can be fetched later." in errors
    assert "qwen-edit fetch" not in errors


def test_the_model_is_an_option(photos, service, capsys):
    assert run_edit(photos, "--protocol", "dashscope", "--model", "another") != 0
    assert "model must be qwen-image-edit-plus" in capsys.readouterr().err
    assert not service.tasks


def test_the_key_of_model_studio_can_be_in_its_own_variable(photos, service, monkeypatch, capsys):
    monkeypatch.delenv("QWEN_EDIT_API_KEY")
    monkeypatch.setenv("DASHSCOPE_API_KEY", API_KEY)
    assert run_edit(photos, "--protocol", "queue") != 0
    assert run_edit(photos, "--protocol", "dashscope") == 0
    assert len(service.tasks) == 1
    monkeypatch.delenv("DASHSCOPE_API_KEY")
    assert run_edit(photos, "--protocol", "dashscope") == 3
    assert "export DASHSCOPE_API_KEY=…" in capsys.readouterr().err


def test_pictures_are_sent_together_in_their_order(photos, tmp_path, service):
    images = [str(photos / "a.png"), "https://example.com/b.jpg", str(photos / "c.webp")]
    assert main(["edit", *images, "-i", "snow", "-o", str(tmp_path), *QUICK]) == 0
    assert len(submission(service).images) == 3


def test_json_describes_the_edit(photos, tmp_path, capsys, service):
    assert run_edit(photos, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    [task_id] = service.tasks
    assert found["task_id"] == task_id
    assert found["files"] == [str(tmp_path / "out" / f"a-{task_id}-0.png")]
    assert found["usage"] == {"cost": "0.0357", "quantity": 1}
    assert found["timings"]["total"] > 0
    assert found["notes"] == []


def test_errors_are_json_too(photos, capsys, service):
    service.inject(Fault.failed_task(110001, "refused by moderation"))
    assert run_edit(photos, "--json") == 1
    [task_id] = service.tasks
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["type"], error["task_id"], error["code"]) == ("EditFailedError", task_id, 110001)
    assert "refused by moderation" in error["message"]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.failed_task(), 1),
        (Fault.status(400).on("submit"), 1),
        (Fault.status(401).on("submit"), 3),
        (Fault.status(402).on("submit"), 3),
        (Fault.status(403).on("submit"), 3),
    ],
    ids=["failed", "refused", "key", "balance", "permission"],
)
def test_exit_codes_distinguish_credentials_from_failures(photos, capsys, service, fault, code):
    service.inject(fault)
    assert run_edit(photos) == code
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-n", "7"], "n is 7"),
        (["--size", "big"], "size is 'big'"),
        (["--concurrency-is-not-an-option-of-edit"], "Unknown option"),
        (["--deadline", "0"], "deadline"),
    ],
)
def test_an_invalid_edit_is_exit_code_2_and_costs_nothing(photos, capsys, service, options, message):
    assert run_edit(photos, *options) == 2
    assert message in capsys.readouterr().err
    assert not service.tasks


def test_four_pictures_are_too_many(photos, capsys, service):
    assert main(["edit", *[str(photos / "a.png")] * 4, "-i", "snow"]) == 2
    assert "4 images: give one to three" in capsys.readouterr().err


def test_warnings_are_plain_notes_once_each(tmp_path, capsys, service):
    Image.new("RGB", (100, 100)).save(tmp_path / "small.png")
    assert main(["edit", str(tmp_path / "small.png"), "-i", "x" * 801, "-o", str(tmp_path), *QUICK]) == 0
    text = capsys.readouterr().err
    assert text.count("note: image 1") == 1
    assert text.count("note: the instruction has 801 characters") == 1
    assert "Warning" not in text


def test_missing_pictures_are_noted(photos, capsys, service):
    def keep_one(reply):
        for part in reply.get("output", ()):
            del part["content"][1:]
        return reply

    service.inject(Fault.reshape(keep_one).on("check"))
    assert run_edit(photos, "-n", "4") == 0
    assert "note: the service gave 1 of the 4 requested pictures\n" in capsys.readouterr().err


def test_changes_that_fit_makes_are_noted(tmp_path, capsys, service):
    Image.new("RGB", (400, 400)).save(tmp_path / "a.ppm")
    assert main(["edit", str(tmp_path / "a.ppm"), "-i", "snow", "-o", str(tmp_path), "--fit", *QUICK]) == 0
    assert "note: image 1" in capsys.readouterr().err


def test_strict_refuses_text_that_would_be_cut_off(tmp_path, photos, capsys, service):
    assert main(["edit", str(photos / "a.png"), "-i", "x" * 801, "--strict"]) == 2
    assert "801 characters" in capsys.readouterr().err


def test_messages_name_the_commands_options(tmp_path, capsys, service):
    (tmp_path / "large.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(10 * 1024 * 1024))
    assert main(["edit", str(tmp_path / "large.jpg"), "-i", "snow"]) == 2
    text = capsys.readouterr().err
    assert "with --fit" in text
    assert "fit=True" not in text


def test_warnings_about_images_name_the_commands_options(tmp_path, capsys, service):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 400)).save(tmp_path / "turned.jpg", exif=exif)
    assert main(["edit", str(tmp_path / "turned.jpg"), "-i", "snow", "-o", str(tmp_path), *QUICK]) == 0
    assert "which the service may ignore: turn it, or let the session do so with --fit\n" in capsys.readouterr().err


def test_a_task_past_its_deadline_is_printed_with_the_command_to_fetch_it(photos, tmp_path, capsys, service):
    service.inject(Fault.stuck_task())
    assert run_edit(photos, "--deadline", "0.3") == 1
    [task_id] = service.tasks
    assert f"qwen-edit fetch {task_id} -o {tmp_path / 'out'}" in capsys.readouterr().err


def test_the_command_to_fetch_a_task_names_the_folder_as_it_is(photos, tmp_path, capsys, service):
    service.inject(Fault.stuck_task())
    folder = tmp_path / "dry_run"
    assert main(["edit", str(photos / "a.png"), "-i", "snow", "-o", str(folder), "--deadline", "0.3", *QUICK]) == 1
    assert f"\n  qwen-edit fetch {next(iter(service.tasks))} -o {folder}\n" in capsys.readouterr().err


def test_a_failed_download_is_printed_with_the_command_to_fetch_it(photos, tmp_path, capsys, service):
    service.inject(Fault.status(404).on("download"))
    assert run_edit(photos) == 1
    [task_id] = service.tasks
    assert f"\n  qwen-edit fetch {task_id} -o {tmp_path / 'out'}\n" in capsys.readouterr().err


def test_a_full_disk_is_a_failure_without_a_traceback(photos, monkeypatch, capsys, service):
    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    assert run_edit(photos) == 1
    text = capsys.readouterr().err
    assert "error: " in text
    assert f"qwen-edit fetch {next(iter(service.tasks))}" in text


@pytest.mark.parametrize("fault", [Fault.drop_reply(), Fault.html_page(200, accepted=True)], ids=["no reply", "a page"])
def test_a_submission_without_a_clear_reply_warns_that_a_task_may_be_charged(photos, capsys, service, fault):
    service.inject(fault.on("submit"))
    assert run_edit(photos) == 1
    text = capsys.readouterr().err
    assert "warning: 1 submission got no clear reply: tasks with unknown ids may exist and be charged" in text
    assert "--resubmit-uncertain" in text


def test_an_edit_that_is_interrupted_names_its_task(photos, tmp_path, service):
    service.inject(Fault.stuck_task())
    arguments = ["edit", str(photos / "a.png"), "-i", "snow", "-o", str(tmp_path / "out"), *QUICK]
    with start_command(*arguments) as process:
        wait_while_running(process, lambda: any(task.checks for task in service.tasks.values()))
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    [task_id] = service.tasks
    assert (process.returncode, output) == (130, "")
    assert f"\n  qwen-edit fetch {task_id} -o {tmp_path / 'out'}\n" in errors
    assert "Traceback" not in errors


def test_the_environments_proxy_is_used_on_request(small, out, service, monkeypatch, capsys):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QWEN_EDIT_BASE_URL", "https://service.invalid")
    monkeypatch.setenv("https_proxy", "proxy:3128")
    edit = ["edit", str(small), "-i", "snow", "-o", str(out), "--deadline", "2"]
    assert main(edit) == 1
    assert "https_proxy in the environment is not used: --trust-env uses it" in capsys.readouterr().err
    assert main([*edit, "--trust-env"]) == 2
    assert "https_proxy in the environment can't be used: write it as http://HOST:PORT" in capsys.readouterr().err
