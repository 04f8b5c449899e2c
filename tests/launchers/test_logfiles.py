import asyncio
from pathlib import Path

from appliance.launchers.logfiles import follow, read_lines
from appliance.launchers.shim.output import Output


def test_lines_are_read_across_the_rotation(tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "log.1").write_text("one\ntwo\n")
    log.write_bytes(b"thr\xffee\nfour")
    assert read_lines(log) == ["one", "two", "thr�ee", "four"]
    assert read_lines(log, tail=2) == ["thr�ee", "four"]
    assert read_lines(tmp_path / "absent") == []


async def test_following_misses_nothing_when_the_file_is_rotated(tmp_path: Path) -> None:
    """A writer that rotates while it is followed, at a pace that never rotates twice between two looks."""
    log = tmp_path / "log"
    output = Output(str(log), limit_bytes=200)
    output.write(b"before\n")
    written: list[str] = []

    def is_running() -> bool:
        """Asked before each look: what it writes is what the look has to find."""
        for _ in range(15):
            line = f"line {len(written)}"
            written.append(line)
            output.write(line.encode() + b"\n")
        return len(written) < 150

    async with asyncio.timeout(30):
        read = [line async for line in follow(log, is_running=is_running)]

    output.close()
    assert (tmp_path / "log.1").exists()
    assert read == written


def test_what_the_disk_does_not_take_is_counted(tmp_path: Path) -> None:
    full = Path("/dev/full")
    output = Output(str(full), limit_bytes=100)
    output.write(b"lost\n")
    assert output.lost_bytes == 5
    assert output.last_lines(5) == ["lost"]
    output.close()
