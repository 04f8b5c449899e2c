"""Documents that say what is true: settings, states, errors, links."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import tomllib
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

import appliance
import gpu
import tenants
from appliance.kernel import settings
from appliance.kernel.errors import ApplianceError
from appliance.services.states import REPLICA_TRANSITIONS
from tests.docs.documents import ROOT, anchors, links, markdown, prose, rows, texts

CONFIGURATION: Final = ROOT / "docs" / "configuration.md"
STATES: Final = ROOT / "docs" / "states.md"
PROMISED: Final = ("HOME", "ADMIN_PORT", "TENANT_PORT", "DATABASE_URL", "LAUNCHER", "DEMO")
"""Settings that automation outside of the project relies on."""
HOSTS: Final = frozenset({"keepachangelog.com", "semver.org", "gpu1.example.org", "nvidia.com"})
"""Names that documents may tell (`nvidia.com/gpu` is a CDI kind); an index of packages or images is nobody's business
but its user's.
"""
_HOST = re.compile(r"\b(?:[a-z0-9-]+\.)+(?:com|org|net|io|dev|cn|ai)\b")
_PRIVATE = re.compile(r"(?<![\w.$])/(?:home|root|Users|mnt)/[\w.-]+")


def _settings() -> dict[str, Any]:
    """Every setting of the defaults by its variable, with the value."""
    values = tomllib.loads((ROOT / "config" / "default.toml").read_text(encoding="utf-8"))
    flat = {("", name): value for name, value in values.items() if not isinstance(value, dict)}
    for section, inner in values.items():
        if isinstance(inner, dict):
            flat |= {(f"{section}__", name): value for name, value in inner.items()}
    return {f"APPLIANCE_{section}{name}".upper(): value for (section, name), value in flat.items()}


def _documented() -> dict[str, tuple[str, str]]:
    """By variable: the setting's name and its default as the page shows them."""
    return {cells[1]: (cells[0], cells[2]) for cells in rows(CONFIGURATION) if len(cells) == 4 and cells[1].isupper()}


def _shown(value: Any) -> str:
    match value:
        case "":
            return "empty"
        case []:
            return "none"
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def test_every_setting_is_documented_with_its_variable_and_default():
    shown = {variable: default for variable, (_, default) in _documented().items()}
    assert shown == {variable: _shown(value) for variable, value in _settings().items()}


def test_settings_are_documented_by_their_own_names():
    wrong = {variable: name for variable, (name, _) in _documented().items() if not variable.endswith(name.upper())}
    assert not wrong


def test_the_variables_that_automation_relies_on_are_settings():
    assert {f"APPLIANCE_{name}" for name in PROMISED} <= _settings().keys()


@pytest.mark.parametrize("variable", sorted([*settings.OTHERS, *settings.RESERVED]))
def test_variables_that_are_no_settings_are_documented(variable: str):
    assert f"`{variable}" in prose(CONFIGURATION)


def _modules() -> list[ModuleType]:
    names = (
        module.name
        for package in (appliance, gpu, tenants)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not module.name.endswith(".__main__")
    )
    return [importlib.import_module(name) for name in names]


def _enumerations() -> list[type[StrEnum]]:
    found = [module for module in _modules() if module.__name__.endswith(".states")]
    assert len(found) >= 4, found
    return [
        member
        for module in found
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, StrEnum) and member.__module__ == module.__name__
    ]


def test_every_state_is_documented():
    text = prose(STATES)
    missing = [f"{kind.__name__}.{state}" for kind in _enumerations() for state in kind if f"`{state}`" not in text]
    assert not missing


def test_the_diagram_of_a_replica_is_its_transition_table():
    drawn = set(re.findall(r"^    (\w+) --> (\w+)$", STATES.read_text(encoding="utf-8"), re.MULTILINE))
    assert drawn == {(before.value, after.value) for before, all_ in REPLICA_TRANSITIONS.items() for after in all_}


def test_every_error_has_a_page_and_every_page_an_error():
    _modules()
    ours = {
        error.code for error in ApplianceError.tree() if error.__module__.startswith(("appliance", "gpu", "tenants"))
    }
    pages = {page.stem for page in (ROOT / "docs" / "errors").glob("*.md")}
    assert ours <= pages
    assert {page for page in pages if not page.startswith("http-")} <= ours


@pytest.mark.parametrize("file", markdown(), ids=lambda file: str(file.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(file: Path):
    broken = []
    for link in links(file):
        if link.startswith(("http://", "https://")):
            continue
        path, _, fragment = link.partition("#")
        target = file.parent / path if path else file
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("file", texts(), ids=lambda file: str(file.relative_to(ROOT)))
def test_documents_name_no_machine_and_no_registry(file: Path):
    text = file.read_text(encoding="utf-8")
    assert not _PRIVATE.findall(text)
    assert str(ROOT) not in text
    assert not set(_HOST.findall(text)) - HOSTS


def test_targets_of_make_that_are_told_exist():
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    told = {
        target
        for file in markdown()
        for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {"run", "test", "check"} <= told
    assert told <= targets


def test_decisions_are_numbered_and_listed():
    folder = ROOT / "docs" / "decisions"
    files = sorted(file.name for file in folder.glob("[0-9]*.md"))
    assert [int(name[:4]) for name in files] == list(range(1, len(files) + 1))
    assert files == [link for link in links(folder / "README.md") if link[0].isdigit()]
    for number, name in enumerate(files, 1):
        assert (folder / name).read_text(encoding="utf-8").startswith(f"# {number}. ")
