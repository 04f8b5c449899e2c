"""Models from the command line: content by upload and import, resumed where it was cut."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from appliance.cli.upload import CHUNK
from tests.cli.conftest import CommandLine, rows
from tests.support.models import write_tiny_model
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def folder(acme: CommandLine) -> Path:
    return write_tiny_model(acme.appliance.models / "cli", seed=7)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """A model whose one weight file takes several chunks; its bytes lie in a hole of the file."""
    large = tmp_path_factory.mktemp("large")
    for file in folder.glob("*.*"):
        if file.is_file():
            (large / file.name).write_bytes(file.read_bytes())
    _write_safetensors(large / "model.safetensors", 2 * CHUNK + 12_345)
    return large


def _write_safetensors(path: Path, size: int) -> None:
    header = f'{{"weight":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}'.encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


def test_a_folder_is_uploaded(acme: CommandLine, folder: Path):
    (folder / ".cache").mkdir(exist_ok=True)
    (folder / ".cache" / "notes").write_text("not the model's")
    done = acme.appliance.cli("model", "upload", "first", str(folder), "--tenant", "acme")
    assert done.returncode == 0, done.stderr
    assert "created model first" in done.stderr
    assert "1 hidden files are left out" in done.stderr
    assert "(100 %)" in done.stderr
    assert "normal" in done.stdout
    version = acme.json("model", "upload", "first", str(folder), "--model-version", "second")
    assert (version["name"], version["kind"], version["state"]) == ("second", "branch", "normal")


def test_an_archive_is_uploaded_as_a_tag(acme: CommandLine, folder: Path, tmp_path: Path):
    archive = tmp_path / "model.tar.gz"
    names = [file.name for file in folder.iterdir() if not file.name.startswith(".")]
    subprocess.run(["tar", "-czf", str(archive), "-C", str(folder), *names], check=True)
    version = acme.json("model", "upload", "archived", str(archive), "--model-version", "v1", "--tag")
    assert (version["kind"], version["state"]) == ("tag", "normal")
    assert "is a tag already" in acme.fails("model", "upload", "archived", str(folder), "--model-version", "v1")


def test_a_folder_of_the_server_is_imported(acme: CommandLine, folder: Path):
    assert acme.json("model", "import", "imported", "--from", str(folder))["state"] == "normal"
    assert "normal" in acme.ok("model", "import", "imported", "--from", str(folder), "--model-version", "again")
    begun = acme.json("model", "import", "imported", "--from", str(folder), "--model-version", "later", "--no-wait")
    assert begun["state"] in ("importing", "normal")
    assert "model-import-not-allowed" in acme.fails("model", "import", "imported", "--from", "/etc")


def test_models_are_shown_described_and_deleted(acme: CommandLine, folder: Path):
    made = acme.json("model", "create", "described", "--description", "one", "--task-type", "summarization")
    assert made["task_type"] == "summarization"
    assert "described" in {row[0] for row in rows(acme.ok("model", "list"))}
    assert [item["name"] for item in acme.json("model", "list", "--task-type", "summarization")] == ["described"]
    changed = acme.json("model", "update", "described", "--description", "two")
    assert changed["description"] == "two"
    assert "two" in acme.ok("model", "show", made["id"])
    assert acme.json("model", "show", "described") == changed
    assert "has no default version" in acme.fails("model", "files", "described")
    assert "created_at" in acme.ok("model", "create", "short-lived")
    assert "transformers" in acme.ok("model", "update", "short-lived", "--framework", "transformers")
    assert acme.ok("model", "delete", "short-lived", "--yes") == "model short-lived: deleted\n"
    assert acme.json("model", "delete", "described")["state"] == "deleted"


def test_versions_files_and_tags(acme: CommandLine, folder: Path):
    acme.ok("model", "upload", "versioned", str(folder))
    assert [item["name"] for item in acme.json("model", "versions", "versioned")] == ["main"]
    assert rows(acme.ok("model", "versions", "versioned"))[0][:4] == ["main", "branch", "normal", "yes"]
    files = acme.json("model", "files", "versioned")
    assert "model.safetensors" in {file["path"] for file in files}
    assert len(rows(acme.ok("model", "files", "versioned", "--model-version", "main"))) == len(files)
    assert acme.json("model", "tag", "versioned", "v1")["kind"] == "tag"
    assert "v2" in acme.ok("model", "tag", "versioned", "v2", "--model-version", "main")
    for tag in ("v1", "v2"):
        eventually(lambda tag=tag: _state(acme, "versioned", tag) == "normal", message=f"{tag} is there")
    assert acme.ok("model", "delete-version", "versioned", "v1") == "version versioned/v1: deleted\n"
    assert acme.json("model", "delete-version", "versioned", "v2")["state"] == "deleted"
    assert "has no version 'v9'" in acme.fails("model", "delete-version", "versioned", "v9")


def _state(acme: CommandLine, model: str, version: str) -> str | None:
    return next((item["state"] for item in acme.json("model", "versions", model) if item["name"] == version), None)


def test_what_is_no_model_is_refused_before_it_is_sent(acme: CommandLine, tmp_path: Path):
    (tmp_path / "model.py").write_text("print()")
    said = acme.fails("model", "upload", "refused", str(tmp_path))
    assert "model.py" in said
    assert "model-refused" in said
    (tmp_path / "notes.txt").write_text("")
    assert "neither a folder nor an archive" in acme.fails("model", "upload", "refused", str(tmp_path / "notes.txt"))
    (tmp_path / "empty").mkdir()
    assert "has no files" in acme.fails("model", "upload", "refused", str(tmp_path / "empty"))


def test_what_fails_while_it_is_stored_says_why(acme: CommandLine, folder: Path, tmp_path: Path):
    for file in folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    done = acme.appliance.cli("model", "upload", "damaged", str(tmp_path), "--tenant", "acme")
    assert done.returncode == 1
    assert "error: version main failed: model.safetensors" in done.stderr


class Way:
    """A way to the appliance that lets `after` bytes of a connection pass, for the first `times` connections.

    Then it is cut, or, where it `swallows`, nothing more comes out of it.
    """

    def __init__(self, url: str, *, after: int, times: int, swallows: bool = False) -> None:
        self._target = urlsplit(url)
        self._after, self._times, self._swallows = after, times, swallows
        self.passed = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection((self._target.hostname, self._target.port))
                for pass_on, source, target in ((self._forth, client, server), (self._back, server, client)):
                    threading.Thread(target=pass_on, args=(source, target), daemon=True).start()

    def _forth(self, client: socket.socket, server: socket.socket) -> None:
        left = self._after
        with contextlib.suppress(OSError):
            for data in _received_from(client):
                if self._times == 0 or left >= 0:
                    server.sendall(data)
                    left -= len(data)
                    self.passed += len(data)
                elif not self._swallows:
                    self._times -= 1
                    break
        _end(client, server)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for data in _received_from(server):
                client.sendall(data)
        _end(server, client)


def _received_from(source: socket.socket) -> Iterator[bytes]:
    while data := source.recv(1 << 18):
        yield data


def _end(*sockets: socket.socket) -> None:
    """Wake whoever reads, and let the far ends know at once, by a reset where they still send."""
    for end in sockets:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


def test_an_upload_goes_on_after_its_connection_broke(acme: CommandLine, large: Path):
    with contextlib.closing(Way(acme.appliance.url, after=CHUNK // 3, times=3)) as way:
        version = acme.json("model", "upload", "broken", str(large), "--url", way.url)
    size = sum(file.stat().st_size for file in large.iterdir())
    assert (version["state"], version["total_bytes"]) == ("normal", size)
    assert size <= way.passed < size + CHUNK, "what had arrived was not sent again"


def test_an_interrupted_upload_is_resumed_by_the_same_command(acme: CommandLine, large: Path):
    command = ["model", "upload", "resumed", str(large), "--tenant", "acme"]
    with (
        contextlib.closing(Way(acme.appliance.url, after=CHUNK // 2, times=1, swallows=True)) as way,
        _begun(acme, [*command, "--url", way.url]) as process,
    ):
        eventually(lambda: _received(acme) > CHUNK // 4, 60, message="bytes have arrived")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "give the same command again" in said
    assert "Traceback" not in said
    done = acme.appliance.cli(*command)
    assert done.returncode == 0, done.stderr
    resumed = re.search(r"resuming upl_\w+: (\d+) bytes are there", done.stderr)
    assert resumed is not None, done.stderr
    assert int(resumed[1]) > CHUNK // 4
    assert acme.json("model", "versions", "resumed")[0]["state"] == "normal"


@contextlib.contextmanager
def _begun(acme: CommandLine, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "appliance.cli.main", *command],
        env=acme.appliance.environ,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _received(acme: CommandLine) -> int:
    client = acme.appliance.client(tenant="acme")
    answer = client.get("models/resumed/uploads")
    ids = [upload["id"] for upload in answer.json()["items"]] if answer.is_success else []
    uploads = [client.get(f"models/resumed/uploads/{upload_id}").json() for upload_id in ids]
    return sum(file["received"] for upload in uploads for file in upload["files"])
