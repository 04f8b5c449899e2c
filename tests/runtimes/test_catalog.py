"""Reading runtime.toml: what comes with the appliance, what others add, and every kind of mistake."""

from pathlib import Path

import pytest

from appliance.kernel.errors import NotFound
from appliance.kernel.resources import resource
from appliance.runtimes.catalog import Catalog, Mode, read_runtime
from appliance.runtimes.errors import RuntimeFileInvalid
from tests.runtimes.specs import LIGHT, light, write

SHIPPED = sorted(resource("images").glob("*/runtime.toml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.parent.name)
def test_the_runtimes_that_come_along_are_valid(file: Path) -> None:
    spec = read_runtime(file)
    assert spec.name == file.parent.name
    assert spec.process is not None
    assert spec.docker is not None


def test_further_folders_are_read(tmp_path: Path) -> None:
    write(tmp_path / "light")
    spec = Catalog.load([tmp_path]).get("light")
    assert spec.mode is Mode.high_performance
    assert spec.folder == tmp_path / "light"
    assert spec.default_image == "example/light:1.2.3"
    assert spec.process is not None
    assert spec.process.installs == ()


@pytest.mark.parametrize(
    ("route", "valid"),
    [
        ("POST /v2/models/{model}/infer", True),
        ("POST /predict raw", True),
        ("GET /predict raw query", True),
        ("POST /predict query raw", False),
        ("POST /predict other", False),
        ("POST /predict?a=b", False),
        ("PATCH /predict", False),
        ("POST /predict\\n", False),
    ],
)
def test_routes_of_a_runtime(tmp_path: Path, route: str, valid: object) -> None:
    write(tmp_path / "light", LIGHT.replace("GET /v1/models", route))
    if valid:
        assert route in Catalog.load([tmp_path]).get("light").routes
    else:
        with pytest.raises(RuntimeFileInvalid, match="routes"):
            Catalog.load([tmp_path])


def test_a_machine_with_devices_may_install_something_else(tmp_path: Path) -> None:
    more = 'install = [["small"]]\ndevice_install = [["large"]]\n[process.env]'
    write(tmp_path / "light", LIGHT.replace("[process.env]", more))
    for has_devices, words in ((True, "large"), (False, "small")):
        spec = Catalog.load([tmp_path], has_devices=lambda: has_devices).get("light")  # noqa: B023 - used at once
        assert spec.process is not None
        assert spec.process.installs == ((words,),)


def test_an_unknown_runtime_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="'vlm'; there are: light"):
        Catalog([light(tmp_path)]).get("vlm")


def test_two_runtimes_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    with pytest.raises(RuntimeFileInvalid, match="both define runtime 'light'"):
        Catalog.load([tmp_path])


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFileInvalid, match="does not exist"):
        Catalog.load([tmp_path / "none"])


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ('name = "light"', "name = ", r"Invalid value"),
        ('name = "light"', 'name = "Light!"', r"\$.name"),
        ('mode = "high-performance"', 'mode = "fast"', r"\$.mode"),
        ('title = "Light"', 'title = "Light"\ncolour = "red"', "unknown field `colour`"),
        ('title = "Light"', 'title = "Light"\nfolder = "/etc"', "`folder` is not for the file to say"),
        ("start_timeout_s = 60", "start_timeout_s = 0", r"\$.start_timeout_s"),
        ("start_timeout_s = 60", "start_timeout_s = 60\nmax_in_flight = 0", r"\$.max_in_flight"),
        *(
            ("start_timeout_s = 60", f"start_timeout_s = 60\n{member} = {value}", r"--most is not one of \[args\]")
            for member, value in (
                ("default_args", '["--most=1"]'),
                ("priority_argument", '"--most=1"'),
                ("concurrency_argument", '"--most"'),
                ("context_argument", '"--most"'),
            )
        ),
        ("start_timeout_s = 60", "", "start_timeout_s"),
        ('vendors = ["nvidia", "cpu"]', 'vendors = ["amd"]', r"\$.vendors"),
        ('mode = "high-performance"', 'mode = "normal"', "quantised: normal mode never serves quantised models"),
        ("{runtime_dir}", "{runtime_folder}", "process: there is no placeholder {runtime_folder}"),
        ("--eager", "--uds", "--uds"),
        ("--eager", "--trust-remote-code", "it runs code that comes with a model"),
        ("--eager", "--name", "--name is set here"),
        ("--eager", "eager", "an argument is written --like-this"),
        ("LIGHT_LEVEL", "LD_PRELOAD", "env.LD_PRELOAD: it may never be set by a tenant"),
        ("LIGHT_LEVEL", "NVIDIA_VISIBLE_DEVICES", "it may never be set by a tenant"),
        ("LIGHT_LEVEL", "PYTHONSTARTUP", "it may never be set by a tenant"),
        ('type = "flag"', 'type = "flag"\nminimum = 1', "belong to types integer and number"),
        ('type = "flag"', 'type = "choice"', "`choices` belong to type choice"),
        ('pattern = "[a-z0-9./=:-]+"', 'pattern = "["', "no regular expression"),
        ("[process.env]", 'requirements = "none.txt"\n[process.env]', "there is no file 'none.txt'"),
    ],
)
def test_a_mistake_is_named_with_file_and_member(tmp_path: Path, before: str, after: str, problem: str) -> None:
    assert before in LIGHT
    file = write(tmp_path / "light", LIGHT.replace(before, after))
    with pytest.raises(RuntimeFileInvalid, match=problem) as refusal:
        read_runtime(file)
    assert str(file) in refusal.value.detail
