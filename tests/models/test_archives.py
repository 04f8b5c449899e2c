"""Archives: good ones become their files, hostile ones are refused before anything of them is used."""

import gzip
import io
import random
import stat
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.models.archives import MOST_ENTRIES, Bounds, stage_archive
from appliance.models.errors import InsufficientStorage, ModelRefused
from appliance.models.inspection import Inspection
from appliance.models.paths import MOST_FILES
from appliance.models.progress import ImportStopped, Progress
from tests.models.builders import model_files, sha256

MOST = 1 << 30


def tar_member(name: str, content: bytes = b"", **changes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in changes.items():
        setattr(info, field, value)
    return info, content


def make_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    mode = "w:gz" if path.name.endswith("gz") else "w"
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def make_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix.lower() == ".zip":
        return make_zip(path, files)
    return make_tar(path, [tar_member(name, content) for name, content in files.items()])


def stage(archive: Path, most_bytes: int = MOST):
    incoming = archive.parent / "incoming"
    incoming.mkdir(exist_ok=True)
    bounds = Bounds(most_bytes, lambda _: None)
    return stage_archive(archive, incoming, Inspection(), Progress(), bounds=bounds)


@pytest.mark.parametrize("name", ["m.tar", "m.tar.gz", "m.tgz", "m.zip", "M.ZIP"])
@pytest.mark.parametrize("prefix", ["", "./", "folder/"])
def test_a_good_archive_becomes_its_files(tmp_path: Path, name: str, prefix: str):
    files = model_files()
    packed = {f"{prefix}{path}": content for path, content in files.items()} | {f"{prefix}.git/config": b"x"}
    staged, left_out = stage(make(tmp_path / name, packed))
    assert {item.path: item.file.read_bytes() for item in staged} == files
    assert {item.path: item.sha256 for item in staged} == {path: sha256(content) for path, content in files.items()}
    assert len(left_out) == 1
    assert sorted(path.name for path in (tmp_path / "incoming").iterdir()) == [f"{n:04d}" for n in range(len(files))]


NAMES = st.lists(st.sampled_from(["..", ".", "a", "/", "b.json", "\\", "~", "c\n"]), min_size=1, max_size=6).map(
    "/".join
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(names=st.lists(NAMES, min_size=1, max_size=4), kind=st.sampled_from(["m.tar", "m.zip"]))
def test_no_member_name_reaches_outside_the_incoming_folder(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], kind: str
):
    root = tmp_path_factory.mktemp("archives")
    archive = make(root / kind, dict.fromkeys(names, b"{}"))
    with pytest.raises(ModelRefused):  # there are never weights among them
        stage(archive)
    outside = [
        path for path in root.rglob("*") if path.is_file() and path.parent.name != "incoming" and path != archive
    ]
    assert outside == []


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (tar_member("a.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "no links"),
        (tar_member("a.json", type=tarfile.LNKTYPE, linkname="config.json"), "no links"),
        (tar_member("a.json", type=tarfile.CHRTYPE), "no links"),
        (tar_member("a.json", type=tarfile.FIFOTYPE), "no links"),
        (tar_member("/etc/cron.d/x.json", b"{}"), "absolute"),
        (tar_member("../x.json", b"{}"), "'..'"),
        (tar_member("pytorch_model.bin", b"x"), "may run code"),
        (tar_member("config.json", b"{}"), "given twice"),
    ],
)
def test_hostile_tar_members_are_refused(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes], reason: str):
    good = [tar_member(name, content) for name, content in model_files().items()]
    with pytest.raises(ModelRefused, match=reason):
        stage(make_tar(tmp_path / "m.tar", [*good, member]))
    assert list((tmp_path / "incoming").iterdir()) == []


def test_links_and_encryption_in_a_zip_are_refused(tmp_path: Path):
    link = zipfile.ZipInfo("a.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ModelRefused, match="no links"):
        stage(tmp_path / "m.zip")
    content = bytearray(make_zip(tmp_path / "e.zip", {"a.json": b"{}"}).read_bytes())
    central = content.index(b"PK\x01\x02")
    content[central + 8] |= 1
    (tmp_path / "e.zip").write_bytes(content)
    with pytest.raises(ModelRefused, match="encrypted"):
        stage(tmp_path / "e.zip")


def test_room_is_reserved_for_the_archive_and_its_members_before_any_is_written(tmp_path: Path):
    archive, files = make(tmp_path / "m.tar", model_files()), model_files()
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    asked: list[int] = []

    def refuse(sizes: Sequence[int]) -> None:
        assert list(incoming.iterdir()) == []
        asked.extend(sizes)
        raise InsufficientStorage("no room")

    with pytest.raises(InsufficientStorage):
        stage_archive(archive, incoming, Inspection(), Progress(), bounds=Bounds(MOST, refuse))
    assert sorted(asked) == sorted([archive.stat().st_size, *map(len, files.values())])
    assert list(incoming.iterdir()) == []


def test_folders_in_a_tar_are_bounded_too(tmp_path: Path):
    folders = [tar_member("d", type=tarfile.DIRTYPE)] * MOST_ENTRIES
    good = [tar_member(name, content) for name, content in model_files().items()]
    with pytest.raises(ModelRefused, match=f"more than {MOST_ENTRIES} entries"):
        stage(make_tar(tmp_path / "m.tar.gz", [*folders, *good]))


@pytest.mark.parametrize("name", ["bomb.tar.gz", "bomb.zip"])
def test_an_archive_out_of_proportion_is_refused_before_it_is_unpacked(tmp_path: Path, name: str):
    archive = make(tmp_path / name, {"model.safetensors": bytes(80 << 20)})
    assert archive.stat().st_size < 1 << 20
    with pytest.raises(ModelRefused, match="would unpack to more than"):
        stage(archive)
    assert list((tmp_path / "incoming").iterdir()) == []


def test_a_member_that_claims_a_huge_size_is_refused_without_reading_it(tmp_path: Path):
    info = tarfile.TarInfo("model.safetensors")
    info.size = 1 << 45
    with gzip.open(tmp_path / "m.tar.gz", "wb") as file:
        file.write(info.tobuf() + bytes(1 << 20))
    with pytest.raises(ModelRefused, match="would unpack to more than"):
        stage(tmp_path / "m.tar.gz")


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path):
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 8 << 20
    with gzip.open(tmp_path / "m.tar.gz", "wb") as file:
        file.write(info.tobuf() + bytes(8 << 20))
    with pytest.raises(ModelRefused, match="a header asks for more than"):
        stage(tmp_path / "m.tar.gz")


@pytest.mark.parametrize("name", ["m.tar", "m.zip"])
def test_too_many_members_are_refused(tmp_path: Path, name: str):
    archive = make(tmp_path / name, {f"{number}.json": b"" for number in range(MOST_FILES + 1)})
    with pytest.raises(ModelRefused, match="more than 4096 members"):
        stage(archive)


@pytest.mark.parametrize("name", ["m.tar", "m.tar.gz", "m.zip"])
def test_damage_anywhere_is_refused_and_never_crashes(tmp_path: Path, name: str):
    noise = random.Random(1)
    good = make(tmp_path / name, model_files()).read_bytes()
    for position in range(0, len(good), max(1, len(good) // 150)):
        for damaged in (good[:position], good[:position] + noise.randbytes(8) + good[position + 8 :]):
            (tmp_path / name).write_bytes(damaged)
            for leftover in (tmp_path / "incoming").glob("*"):
                leftover.unlink()
            try:
                stage(tmp_path / name)
            except ModelRefused:
                continue


def test_unpacking_stops_when_it_is_asked_to(tmp_path: Path):
    archive = make(tmp_path / "m.tar", model_files())
    progress = Progress()
    progress.stop()
    (tmp_path / "incoming").mkdir()
    with pytest.raises(ImportStopped):
        stage_archive(archive, tmp_path / "incoming", Inspection(), progress, bounds=Bounds(MOST, lambda _: None))
