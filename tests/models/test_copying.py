"""Copies, full disks, and files that are none."""

import io
import os
from pathlib import Path

import pytest

from appliance.models.copying import BLOCK, RESERVE, copy_file, copy_stream, open_regular, out_of_space, require_space
from appliance.models.errors import InsufficientStorage
from appliance.models.progress import ImportStopped, Phase, Progress
from tests.models.builders import sha256


def test_a_copy_is_hashed_and_counted(tmp_path: Path):
    content = os.urandom(2 * BLOCK + 1)
    (tmp_path / "source").write_bytes(content)
    progress = Progress()
    progress.begin(Phase.copying, len(content))
    with open_regular(tmp_path / "source") as source:
        assert copy_file(source, tmp_path / "target", progress) == (sha256(content), len(content))
    assert (tmp_path / "target").read_bytes() == content
    assert progress.bytes_done == len(content)


def test_a_source_that_is_longer_than_it_said_is_not_copied_on(tmp_path: Path):
    with pytest.raises(ValueError, match="more than the announced 3 bytes"):
        copy_stream(io.BytesIO(b"abcd"), tmp_path / "target", Progress(), limit=3)
    assert (tmp_path / "target").stat().st_size <= 3


def test_a_stop_is_noticed_at_the_next_block(tmp_path: Path):
    progress = Progress()

    class Stopping(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            progress.stop()
            return super().read(size)

    with pytest.raises(ImportStopped):
        copy_stream(Stopping(bytes(3 * BLOCK)), tmp_path / "target", progress, limit=1 << 30)
    assert (tmp_path / "target").stat().st_size <= BLOCK


def test_a_full_disk_is_an_answer():
    with (
        pytest.raises(InsufficientStorage, match="disk is full"),
        out_of_space(),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_a_model_that_does_not_fit_is_refused_with_the_figures():
    require_space(RESERVE + 10, 10)
    with pytest.raises(InsufficientStorage, match=r"needs 5\.0 GiB .* 2\.0 GiB are there"):
        require_space(2 << 30, 5 << 30)


def test_only_regular_files_are_opened_and_a_fifo_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/null"), tmp_path):
        with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
            open_regular(path)
