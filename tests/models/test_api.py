"""Models over HTTP, from the first request to a version that may be served."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from appliance.api.context import Port
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.ids import TenantId
from appliance.models.receiving import BUFFER
from appliance.models.repository import ModelRepository
from tenants.permissions import Permission
from tests.models.builders import model_files, read_tree, safetensors, sha256, write_files
from tests.models.library import Library
from tests.models.serving import Caller, add_key, caller, context_for, detail, serving
from tests.support.waiting import eventually_async

# Litestar 3 wants dependencies marked; the whole API is to follow at once.
pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
READ_WRITE = (Permission.model_read, Permission.model_write)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def sockets(
    stack: AsyncExitStack, database: Database, clock: ManualClock, repository: ModelRepository, tmp_path: Path
) -> dict[Port, Path]:
    return {
        port: await stack.enter_async_context(serving(context_for(port, database, clock, repository), tmp_path))
        for port in Port
    }


@pytest.fixture
async def developer(
    stack: AsyncExitStack,
    sockets: dict[Port, Path],
    database: Database,
    clock: ManualClock,
    tenant_ids: list[TenantId],
) -> Caller:
    secret = await add_key(database, clock, tenant_ids[0], *READ_WRITE)
    return await stack.enter_async_context(caller(sockets[Port.tenant], secret))


@pytest.fixture
async def stranger(
    stack: AsyncExitStack,
    sockets: dict[Port, Path],
    database: Database,
    clock: ManualClock,
    tenant_ids: list[TenantId],
) -> Caller:
    secret = await add_key(database, clock, tenant_ids[1], *READ_WRITE)
    return await stack.enter_async_context(caller(sockets[Port.tenant], secret))


@pytest.fixture
async def administrator(
    stack: AsyncExitStack, sockets: dict[Port, Path], database: Database, clock: ManualClock
) -> Caller:
    return await stack.enter_async_context(
        caller(sockets[Port.admin], await add_key(database, clock, None, *Permission))
    )


def announced(files: dict[str, bytes]) -> dict[str, object]:
    return {
        "files": [{"path": path, "size": len(content), "sha256": sha256(content)} for path, content in files.items()]
    }


async def test_a_model_is_uploaded_through_broken_connections_and_served(developer: Caller, library: Library):
    chance = random.Random(7)
    weights = safetensors({"w": ("BF16", (3 * BUFFER // 128, 64))}, seed=b"several buffers")
    files = model_files() | {"model.safetensors": weights, "sub/notes.txt": b"x"}
    assert (await developer.ask("POST", "/models", {"name": "llama"}, status=201)).json()["shared"] is False
    upload = (await developer.ask("POST", "/models/llama/uploads", announced(files), status=201)).json()
    base = f"/models/llama/uploads/{upload['id']}"
    for path, content in files.items():
        url, offset = f"{base}/files/{path}", 0
        assert (await developer.ask("HEAD", url)).headers["Upload-Length"] == str(len(content))
        while offset < len(content):
            end = min(len(content), offset + chance.randrange(1, 2 * BUFFER))
            if end < len(content):
                await developer.cut(url, offset, content[offset:end], len(content) - offset)
                await eventually_async(lambda end=end, url=url: _reached(developer, url, end))
            else:
                answer = await developer.ask("PATCH", url, content[offset:], status=204, Upload_Offset=str(offset))
                assert answer.headers["Upload-Offset"] == str(len(content))
            offset = end
    assert all(file["complete"] for file in (await developer.ask("GET", base)).json()["files"])
    version = (await developer.ask("POST", f"{base}/finish", status=202)).json()
    assert (version["state"], version["progress"]["source"]) == ("importing", "upload")
    await library.settle()
    version = (await developer.ask("GET", "/models/llama/versions/main")).json()
    assert (version["state"], version["current"], version["progress"]) == ("normal", True, None)
    assert version["metadata"]["architectures"] == ["LlamaForCausalLM"]
    assert read_tree(library.repository.store.tree(version["id"])) == files
    listed = (await developer.ask("GET", "/models/llama/versions/main/files")).json()
    assert {file["path"]: file["sha256"] for file in listed} == {path: sha256(files[path]) for path in files}
    model = (await developer.ask("GET", "/models/llama")).json()
    assert (model["default_version"], model["task_type"], model["framework"]) == (
        "main",
        "text-generation",
        "transformers",
    )


async def _reached(developer: Caller, url: str, end: int) -> bool:
    return await developer.offset(url) == end


async def test_wrong_requests_for_bytes_are_refused_with_reason_and_remedy(developer: Caller, library: Library):
    files = {"model.safetensors": model_files()["model.safetensors"]}
    size = len(files["model.safetensors"])
    await developer.ask("POST", "/models", {"name": "llama"}, status=201)
    upload = (await developer.ask("POST", "/models/llama/uploads", announced(files), status=201)).json()
    url = f"/models/llama/uploads/{upload['id']}/files/model.safetensors"
    answer = await developer.ask("PATCH", url, b"x", status=409, Upload_Offset="5")
    assert detail(answer) == ("upload-offset-mismatch", "the file ends at 0, not at 5; go on from there")
    answer = await developer.ask("PATCH", url, bytes(size + 1), status=413, Upload_Offset="0")
    assert detail(answer)[0] == "upload-too-large"
    answer = await developer.ask("PATCH", url, bytes(size), status=422, Upload_Offset="0")
    assert detail(answer)[0] == "upload-digest-mismatch"
    assert await developer.offset(url) == 0
    await developer.ask("PATCH", url, b"x", status=400)
    answer = await developer.ask("POST", f"/models/llama/uploads/{upload['id']}/finish", status=409)
    assert detail(answer)[0] == "upload-incomplete"
    await developer.ask("DELETE", f"/models/llama/uploads/{upload['id']}", status=204)
    await developer.ask("PATCH", url, b"x", status=404, Upload_Offset="0")
    assert (await developer.ask("GET", "/models/llama/versions")).json()["items"] == []


async def test_names_that_cannot_be_part_of_a_model_are_refused_each_with_its_reason(developer: Caller):
    await developer.ask("POST", "/models", {"name": "llama"}, status=201)
    files = announced({"pytorch_model.bin": b"x", "../x.json": b"x"})
    answer = await developer.ask("POST", "/models/llama/uploads", files, status=422)
    assert detail(answer)[0] == "model-refused"
    assert [error["pointer"] for error in answer.json()["errors"]] == [
        "/files/pytorch_model.bin",
        "/files/..~1x.json",
        "/files/",
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": "a\n"},
        {"name": "mdl_06gztc67q24vvmp5gksc"},
        {"name": "x" * 97},
        {"name": "a", "tenant_id": "ten_1"},
        {"name": "a", "task_type": "Text Generation"},
    ],
)
async def test_bad_models_are_refused(developer: Caller, body: dict[str, str]):
    await developer.ask("POST", "/models", body, status=400)


async def test_what_was_edited_wins_over_what_was_detected(developer: Caller, library: Library):
    await developer.ask("POST", "/models", {"name": "llama", "task_type": "summarization"}, status=201)
    await library.import_(model_files())
    answer = await developer.ask("GET", "/models/llama")
    assert (answer.json()["task_type"], answer.json()["detected_task_type"]) == ("summarization", "text-generation")
    assert len((await developer.ask("GET", "/models?task_type=summarization&name=LLA")).json()["items"]) == 1
    assert (await developer.ask("GET", "/models?task_type=text-generation")).json()["items"] == []
    tag = answer.headers["ETag"]
    changed = await developer.ask("PATCH", "/models/llama", {"task_type": None}, If_Match=tag)
    assert changed.json()["task_type"] == "text-generation"
    await developer.ask("PATCH", "/models/llama", {"framework": "vllm"}, status=412, If_Match=tag)
    assert len((await developer.ask("GET", "/models?framework=transformers")).json()["items"]) == 1
    await developer.ask("PATCH", "/models/llama", {"default_version": "v9"}, status=409)


async def test_one_key_has_one_effect(developer: Caller):
    first = await developer.ask("POST", "/models", {"name": "llama"}, status=201, Idempotency_Key="k")
    again = await developer.ask("POST", "/models", {"name": "llama"}, status=201, Idempotency_Key="k")
    assert first.json() == again.json()
    answer = await developer.ask("POST", "/models", {"name": "llama"}, status=409)
    assert detail(answer) == ("model-name-taken", "there is a model 'llama' already; choose another name")


async def test_a_stranger_learns_nothing_of_a_model(developer: Caller, stranger: Caller, library: Library):
    model = (await developer.ask("POST", "/models", {"name": "llama"}, status=201)).json()
    await library.import_(model_files())
    upload = (
        await developer.ask("POST", "/models/llama/uploads", announced(model_files()) | {"version": "v"}, status=201)
    ).json()
    for reference in ("llama", model["id"]):
        base = f"/models/{reference}"
        for method, path, body in (
            ("GET", base, None),
            ("PATCH", base, {}),
            ("DELETE", base, None),
            ("GET", f"{base}/versions", None),
            ("GET", f"{base}/versions/main", None),
            ("DELETE", f"{base}/versions/main", None),
            ("GET", f"{base}/versions/main/files", None),
            ("POST", f"{base}/versions/main/tags", {"name": "t"}),
            ("GET", f"{base}/uploads", None),
            ("GET", f"{base}/uploads/{upload['id']}", None),
            ("POST", f"{base}/uploads/{upload['id']}/finish", None),
            ("DELETE", f"{base}/uploads/{upload['id']}", None),
        ):
            answer = await stranger.ask(method, path, body, status=404)
            assert detail(answer)[0] == "model-not-found"
        url = f"{base}/uploads/{upload['id']}/files/config.json"
        await stranger.ask("PATCH", url, b"{}", status=404, Upload_Offset="0")
        await stranger.ask("HEAD", url, status=404)
    assert (await stranger.ask("GET", "/models")).json()["items"] == []
    await stranger.ask("POST", "/models", {"name": "llama"}, status=201)


async def test_sharing_and_importing_folders_are_for_administrators(
    developer: Caller, administrator: Caller, library: Library
):
    folder = write_files(library.shelf / "base", model_files())
    await developer.ask("POST", "/models", {"name": "base", "shared": True}, status=403)
    order = {"directory": str(folder)}
    await developer.ask("POST", "/models/base/imports", order, status=404)
    await administrator.ask("POST", "/models", {"name": "base"}, status=400)
    await administrator.ask("POST", "/models", {"name": "base", "shared": True}, status=201)
    answer = await administrator.ask("POST", "/models/base/imports", {"directory": "/etc"}, status=403)
    assert detail(answer)[0] == "model-import-not-allowed"
    await administrator.ask("POST", "/models/base/imports", order, status=202)
    await library.settle()
    assert (await developer.ask("GET", "/models/base")).json()["shared"] is True
    answer = await developer.ask("DELETE", "/models/base", status=403)
    assert detail(answer)[0] == "model-shared"
    await administrator.ask("POST", "/models/base/versions/main/tags", {"name": "v1"}, status=202)
    await library.settle()
    assert (await developer.ask("GET", "/models/base/versions/v1")).json()["kind"] == "tag"
    await administrator.ask("DELETE", "/models/base", status=204)
    await developer.ask("GET", "/models/base", status=404)


async def test_versions_come_in_pages(developer: Caller, library: Library):
    await developer.ask("POST", "/models", {"name": "llama"}, status=201)
    await library.import_(model_files())
    for name in ("v1", "v2"):
        await developer.ask("POST", "/models/llama/versions/main/tags", {"name": name}, status=202)
    await library.settle()
    first = (await developer.ask("GET", "/models/llama/versions?limit=2")).json()
    rest = (await developer.ask("GET", f"/models/llama/versions?limit=2&cursor={first['next_cursor']}")).json()
    assert [version["name"] for version in first["items"] + rest["items"]] == ["v2", "v1", "main"]
    assert rest["next_cursor"] is None


async def test_uploads_come_in_pages_without_their_files(developer: Caller):
    """Thousands of files may be announced of each; how much has arrived is told of one upload."""
    await developer.ask("POST", "/models", {"name": "llama"}, status=201)
    files = {"config.json": b"{}", "model.safetensors": b"x" * 100}
    for name in ("a", "b"):
        await developer.ask("POST", "/models/llama/uploads", announced(files) | {"version": name}, status=201)
    first = (await developer.ask("GET", "/models/llama/uploads?limit=1")).json()
    second = (await developer.ask("GET", f"/models/llama/uploads?limit=1&cursor={first['next_cursor']}")).json()
    assert second["next_cursor"] is None
    (newer, older) = (*first["items"], *second["items"])
    assert newer["id"] > older["id"]
    assert (older["files"], older["size"], older["state"]) == (2, 102, "open")
    url = f"/models/llama/uploads/{older['id']}/files/config.json"
    await developer.ask("PATCH", url, b"{}", status=204, Upload_Offset="0")
    shown = (await developer.ask("GET", f"/models/llama/uploads/{older['id']}")).json()
    assert [(file["received"], file["complete"]) for file in shown["files"]] == [(2, True), (0, False)]


async def test_the_memory_of_a_version_is_estimated(developer: Caller, stranger: Caller, library: Library):
    await developer.ask("POST", "/models", {"name": "llama"}, status=201)
    await library.import_(model_files())
    path = "/models/llama/versions/main/estimate"
    told = (await developer.ask("GET", f"{path}?context=512&concurrency=4&devices=2")).json()
    # 3 layers, 2 heads of keys and values of 64 elements, of which each of two devices has one
    assert told["kv_bytes_per_token"] == 3 * 2 * 1 * 64 * 2
    assert told["kv_cache_bytes"] == 4 * 512 * told["kv_bytes_per_token"]
    assert told["weights_bytes"] > 0
    assert told["refused_devices"] == {}
    assert (told["guide"]["least"], told["guide"]["most"]) == (2, 2)
    assert (told["correction"]["cache_starts"], told["corrections"]) == (0, {})
    assert told["total_bytes"] == sum(
        told[f"{part}_bytes"] for part in ("weights", "kv_cache", "activations", "graphs", "runtime")
    )
    halved = (await developer.ask("GET", f"{path}?context=512&concurrency=4&devices=2&cache=fp8")).json()
    assert halved["kv_cache_bytes"] * 2 == told["kv_cache_bytes"]
    for query, code in (
        ("context=512&devices=3", "estimate-impossible"),
        ("context=513", "estimate-impossible"),
        ("", "bad-input"),
        ("context=0", "bad-input"),
        ("context=1&cache=fp4", "bad-input"),
    ):
        assert detail(await developer.ask("GET", f"{path}?{query}", status=400))[0] == code
    assert detail(await stranger.ask("GET", f"{path}?context=1", status=404))[0] == "model-not-found"
