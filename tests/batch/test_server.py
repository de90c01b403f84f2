"""A hub over HTTP, as a worker sees it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import ssl

import aiohttp
import pytest
import trustme
from bulk_runs import PHOTO, service, until
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from emulator_calls import data_uri

from qwen_edit_async import ConfigurationError, EditHub
from qwen_edit_async.batch.server import address_of, load_certificate, serve
from qwen_edit_async.emulator import Fault

pytestmark = pytest.mark.anyio

TOKEN = "a-token-of-the-workers"


@contextlib.asynccontextmanager
async def served(folder, *faults: Fault, **settings: object):
    """Serve a hub, and yield the emulator, the hub, and a worker's HTTP session."""
    async with service(*faults, **settings) as (emulator, session):
        hub = EditHub(folder / "job", session)
        async with (
            serve(hub, "127.0.0.1:0", TOKEN) as url,
            hub,
            aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {TOKEN}"}) as worker,
        ):
            yield emulator, hub, worker


async def ask(worker, body: object, path: str = "/edits", **options: object) -> tuple[int, dict[str, object]]:
    async with worker.post(path, data=body if isinstance(body, str) else json.dumps(body), **options) as response:
        return response.status, await response.json()


async def get(worker, path: str) -> tuple[int, bytes]:
    async with worker.get(path) as response:
        return response.status, await response.read()


@pytest.mark.may_block("the test reads certificates")
async def test_a_hub_with_a_certificate_encrypts_the_connection(tmp_path):
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "hub.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trusting = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    async with service() as (_, session):
        hub, certificate = EditHub(tmp_path / "job", session), load_certificate(tmp_path / "hub.pem")
        async with serve(hub, "127.0.0.1:0", TOKEN, certificate) as url, hub, aiohttp.ClientSession(url) as worker:
            assert url.startswith("https://127.0.0.1:")
            options = {"ssl": trusting, "headers": {"Authorization": f"Bearer {TOKEN}"}}
            status, outcome = await ask(
                worker, {"key": "a", "image": data_uri(PHOTO), "instruction": "snow"}, **options
            )
            assert (status, outcome["status"]) == (200, "saved")
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await ask(worker, {})


@pytest.mark.may_block("the test reads certificates")
@pytest.mark.parametrize("content", [None, b"", b"no certificate", "encrypted"])
def test_a_certificate_that_can_not_be_used_is_refused(tmp_path, content):
    path = tmp_path / "hub.pem"
    if content == "encrypted":
        key = rsa.generate_private_key(65537, 2048)
        content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
        content += trustme.CA().cert_pem.bytes()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"certificate='.*hub\.pem' can't be used .*: give a PEM file"):
        load_certificate(path)


@pytest.mark.may_block("the test writes and reads pictures")
async def test_workers_ask_for_edits_and_fetch_pictures(tmp_path):
    (tmp_path / "photo.png").write_bytes(PHOTO)
    edits = {
        "path": str(tmp_path / "photo.png"),
        "inline": data_uri(PHOTO),
        "url": "https://pictures.example/cat.png",
    }
    async with served(tmp_path) as (emulator, hub, worker):
        for key, image in edits.items():
            for _ in range(2):
                status, outcome = await ask(worker, {"key": key, "image": image, "instruction": "snow", "n": 1})
                assert (status, outcome["error"], outcome["status"], outcome["cost"]) == (200, None, "saved", "0.0357")
            assert outcome["files"] == [str(hub.folder / f"{key}-0.png")]
            assert await get(worker, f"/pictures/{key}-0.png") == (200, (hub.folder / f"{key}-0.png").read_bytes())
        assert emulator.statistics().tasks_created == 3


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no JSON",
        "[" * 100_000,
        '"\\ud800"',
        [],
        None,
        "NaN",
        {},
        {"image": "a.png"},
        {"image": "a.png", "instruction": ""},
        {"image": "a.png", "instruction": 5},
        {"image": 5, "instruction": "snow"},
        {"image": {}, "instruction": "snow"},
        {"image": [], "instruction": "snow"},
        {"images": ["a.png"] * 4, "instruction": "snow"},
        {"images": {"a": 1}, "instruction": "snow"},
        {"images": [None], "instruction": "snow"},
        {"image": "a.png", "instruction": "snow", "key": 5},
        {"image": "a.png", "instruction": "snow", "n": 7},
        {"image": "a.png", "instruction": "snow", "n": {}},
        {"image": "a.png", "instruction": "snow", "size": {}},
        {"image": "a.png", "instruction": "snow", "size": [1, []]},
        {"image": "a.png", "instruction": "snow", "parameters": []},
        {"image": "a.png", "instruction": "snow", "metadata": []},
        {"image": "a.png", "instruction": "snow", "unknown": 1},
    ],
    ids=lambda body: str(body)[:60],
)
async def test_bad_input_is_refused(tmp_path, body):
    async with served(tmp_path) as (emulator, _, worker):
        status, reply = await ask(worker, body)
        assert (status, [*reply]) == (400, ["error"])
        assert emulator.statistics().submits == 0


async def test_other_encodings_and_too_much_are_refused(tmp_path):
    async with served(tmp_path) as (_, _, worker):
        status, _ = await ask(worker, "{}", headers={"Content-Type": "application/json; charset=unheard-of"})
        assert status == 400
        async with worker.post("/edits", data=io.BytesIO(bytes(1024 * 1024 + 1))) as response:
            assert response.status == 413


async def test_what_went_wrong_with_an_edit_is_in_its_outcome(tmp_path):
    async with served(tmp_path, Fault.failed_task()) as (_, _, worker):
        body = {"key": "a", "image": "https://pictures.example/cat.png", "instruction": "snow"}
        status, outcome = await ask(worker, body)
        assert (status, outcome["status"], outcome["ok"]) == (200, "failed", False)
        assert "moderation" in outcome["error"]
        status, refused = await ask(worker, body | {"instruction": "rain"})
        assert (status, refused["status"]) == (200, "failed")
        status, missing = await ask(worker, {"image": "nowhere.png", "instruction": "snow"})
        assert (status, missing["status"]) == (200, "failed")


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer wrong", TOKEN, f"Bearer {TOKEN}x", "Bearer \u00fc"])
async def test_a_wrong_token_gets_nothing(tmp_path, token):
    async with served(tmp_path) as (emulator, _, worker):
        for method, path in (("POST", "/edits"), ("GET", "/pictures/a-0.png")):
            async with worker.request(method, path, headers={"Authorization": token}) as response:
                assert response.status == 401
        assert emulator.statistics().submits == 0


@pytest.mark.may_block("the test writes files")
@pytest.mark.parametrize(
    "name",
    [
        "qwen-edit-journal.sqlite3",
        "report.json",
        "..%2Fsecret.png",
        ".hidden.png",
        "missing.png",
        "%00.png",
        "folder.png",
    ],
)
async def test_only_pictures_of_the_folder_are_given(tmp_path, name):
    (tmp_path / "secret.png").write_bytes(PHOTO)
    async with served(tmp_path) as (_, hub, worker):
        (hub.folder / ".hidden.png").write_bytes(PHOTO)
        (hub.folder / "folder.png").mkdir()
        status, content = await get(worker, f"/pictures/{name}")
        assert status in {403, 404}
        assert PHOTO not in content


async def test_a_worker_that_leaves_loses_nothing(tmp_path):
    body = {"key": "a", "image": "https://pictures.example/cat.png", "instruction": "snow"}
    async with served(tmp_path, duration=0.2) as (emulator, _, worker):
        with pytest.raises(TimeoutError):
            await ask(worker, body, timeout=aiohttp.ClientTimeout(0.1))
        await until(lambda: emulator.statistics().tasks_created == 1)
        status, outcome = await ask(worker, body)
        assert (status, outcome["ok"], emulator.statistics().tasks_created) == (200, True, 1)


async def test_a_closing_hub_answers_its_workers(tmp_path):
    body = {"key": "a", "image": "https://pictures.example/cat.png", "instruction": "snow"}
    async with service(duration=30) as (emulator, session):
        hub = EditHub(tmp_path / "job", session)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            serve(hub, "127.0.0.1:0", TOKEN) as url,
            aiohttp.ClientSession(url, headers=headers) as worker,
        ):
            assert (await ask(worker, body))[0] == 503
            async with hub:
                asked = asyncio.create_task(ask(worker, body))
                await until(lambda: session.unfinished)
            status, outcome = await asked
            assert (status, outcome["status"], outcome["error"]) == (503, "submitted", "the hub was closed")
            assert outcome["task_id"] in emulator.tasks
            assert (await ask(worker, body))[0] == 503


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "127.0.0.1",
        "127.0.0.1:x",
        "127.0.0.1:99999",
        ":80",
        "0.0.0.0:80",
        "[::]:80",
        "8.8.8.8:80",
        "a.b:80",
        "[x]:80",
    ],
)
def test_only_a_private_address_is_listened_on(listen):
    with pytest.raises(ConfigurationError, match="not an address to listen on"):
        address_of(listen)


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:8788", ("localhost", 8788)),
        ("[::1]:8788", ("::1", 8788)),
        ("192.168.1.5:8788", ("192.168.1.5", 8788)),
    ],
)
def test_private_addresses_are_listened_on(listen, address):
    assert address_of(listen) == address
