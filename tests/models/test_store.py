"""The store: each content once, read-only, whole or absent; what an import claims is never collected."""

import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.models.claims import Claims
from appliance.models.store import Store, StoredFile
from tests.models.builders import disk_usage, read_tree, sha256


@pytest.fixture
def store(tmp_path: Path):
    store = Store(tmp_path / "models")
    store.prepare()
    return store


def put(store: Store, content: bytes) -> StoredFile:
    file = store.root / "incoming" / "one"
    file.write_bytes(content)
    digest = sha256(content)
    store.place(file, digest, len(content))
    assert not file.exists()
    return StoredFile("model.safetensors", digest, len(content))


def test_a_content_is_kept_once_however_often_it_comes(store: Store):
    content = os.urandom(1 << 20)
    first, second = put(store, content), put(store, content)
    store.materialise("ver_a", [first])
    store.materialise("ver_b", [second, StoredFile("sub/copy.json", first.sha256, first.size)])
    assert disk_usage(store.root) == len(content)
    assert store.blob(first.sha256).stat().st_nlink == 4
    assert read_tree(store.tree("ver_b")) == {"model.safetensors": content, "sub/copy.json": content}


def test_what_is_stored_is_read_only_and_readable_by_engines(store: Store):
    file = put(store, b"content")
    before = os.umask(0o077)
    store.materialise("ver_a", [file, StoredFile("sub/copy.json", file.sha256, file.size)])
    os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.tree("ver_a").glob("**")} == {0o755}
    for path in (store.blob(file.sha256), store.tree("ver_a") / file.path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_a_blob_that_a_damaged_disk_cut_is_replaced(store: Store):
    file = put(store, b"content")
    blob = store.blob(file.sha256)
    blob.chmod(0o644)
    blob.write_bytes(b"con")
    put(store, b"content")
    assert blob.read_bytes() == b"content"


def test_discarding_leaves_nothing_and_may_be_repeated(store: Store):
    store.materialise("ver_a", [put(store, b"content")])
    store.discard("versions", "ver_a")
    store.discard("versions", "ver_a")
    assert not store.tree("ver_a").exists()
    assert [path for path in store.names_in("incoming") if path.startswith(".")] == []


STEPS = st.lists(st.sampled_from(["claim", "release", "begin", "end", "collect"]), max_size=12)


@given(STEPS)
def test_no_claimed_content_is_ever_collected(steps: list[str]):
    """A model of one import that claims, commits and releases, against a collector that reads between."""
    claims, committed = Claims(), False
    holding, collecting, claimed = None, None, False
    unless_claimed, seen_committed = None, False
    for step in steps:
        if step == "claim" and not claimed:
            holding = claims.holding()
            holding.__enter__()("abc")
            claimed = True
        elif step == "release" and claimed:
            committed = True  # the rows are committed before the claim is let go
            holding.__exit__(None, None, None)
            claimed = False
        elif step == "begin" and unless_claimed is None:
            collecting = claims.collecting()
            unless_claimed = collecting.__enter__()
            seen_committed = committed
        elif step == "end" and unless_claimed is not None:
            collecting.__exit__(None, None, None)
            unless_claimed = None
        elif step == "collect" and unless_claimed is not None and not seen_committed:
            removed = unless_claimed("abc", lambda: None)
            assert not (removed and (claimed or committed))


def test_a_claim_waits_for_a_removal_that_has_begun():
    claims = Claims()
    removing, go_on = threading.Event(), threading.Event()

    def remove() -> None:
        removing.set()
        assert go_on.wait(10)

    with claims.collecting() as unless_claimed:
        collector = threading.Thread(target=unless_claimed, args=("abc", remove))
        collector.start()
        assert removing.wait(10)
        with claims.holding() as claim:
            importer = threading.Thread(target=claim, args=("abc",))
            importer.start()
            assert importer.is_alive()
            go_on.set()
            importer.join(10)
            collector.join(10)
            assert not importer.is_alive()
            assert not unless_claimed("abc", lambda: None)
