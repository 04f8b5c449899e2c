"""Names: what passes can be made below a folder and never lands outside of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.models.kinds import is_left_out, kind_problem
from appliance.models.paths import MOST_FILES, path_problem, tree_problems

PARTS = st.sampled_from(
    ["..", ".", "", "a", "b c", "é", "e\u0301", "\0", "\n", "\\", "x" * 300, "\u202e", "C:", "~", " "]
)
NAMES = st.lists(PARTS, min_size=1, max_size=10).map("/".join) | st.text(max_size=30)


@given(NAMES)
def test_an_accepted_name_stays_below_its_folder(name: str):
    if path_problem(name) is None:
        target = (Path("/store/tree") / name).resolve()
        assert target.is_relative_to("/store/tree")
        assert target != Path("/store/tree")
        assert str(target.relative_to("/store/tree")) == name
        assert len(name.encode().split(b"/")[-1]) <= 255


@pytest.mark.parametrize("name", ["config.json", "original/params.json", "a b.txt", "é.md", "tokenizer.model.v3.json"])
def test_plain_names_are_accepted(name: str):
    assert path_problem(name) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "part ''"),
        ("../x.json", "part '..'"),
        ("a/../../x.json", "part '..'"),
        ("/etc/passwd", "absolute"),
        ("a\\..\\b.json", "backslash"),
        ("a//b.json", "part ''"),
        ("a\0.json", "control"),
        ("\u202egpj.exe", "control"),
        ("e\u0301.md", "normal form"),
        ("a/" * 9 + "b.json", "folders deep"),
        ("x" * 600, "characters"),
        ("é" * 120 + ".md", "more than 200 bytes"),
        ("a /b.json", "blank"),
    ],
)
def test_other_names_are_refused_with_the_reason(name: str, reason: str):
    assert reason in (path_problem(name) or "")


@given(st.lists(st.lists(st.sampled_from(["a", "A", "b", "c"]), min_size=1, max_size=3).map("/".join), max_size=8))
def test_accepted_sets_of_names_can_exist_as_one_tree(tmp_path_factory: pytest.TempPathFactory, names: list[str]):
    if list(tree_problems(names)):
        return
    root = tmp_path_factory.mktemp("tree")
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch(exist_ok=False)


def test_too_many_files_are_refused():
    refusals = list(tree_problems(f"{number}.json" for number in range(MOST_FILES + 1)))
    assert "at most" in refusals[0].reason


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("pytorch_model.bin", "may run code"),
        ("model.PT", "may run code"),
        ("tf_model.h5", "may run code"),
        ("model.gguf", "not a weights format"),
        ("modeling_x.py", "is code"),
        ("model.tar.gz", "is an archive"),
        ("what.ever", "not part of a model"),
        ("Makefile", "without an ending"),
        ("model.safetensors.bin", "may run code"),
    ],
)
def test_files_that_are_no_part_of_a_model_are_refused_by_name(path: str, reason: str):
    assert reason in (kind_problem(path) or "")


@pytest.mark.parametrize(
    "path", ["LICENSE", "a/NOTICE", "x.safetensors", "merges.txt", "chat_template.jinja", "t.model"]
)
def test_parts_of_a_model_are_accepted_by_name(path: str):
    assert kind_problem(path) is None


def test_what_version_control_leaves_behind_is_left_out():
    assert [
        path for path in (".git/config", "a/.cache/x.json", ".gitattributes", "config.json") if is_left_out(path)
    ] == [
        ".git/config",
        "a/.cache/x.json",
        ".gitattributes",
    ]
