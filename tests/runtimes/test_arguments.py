"""What a tenant may set of an engine, and everything that must not get through."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.runtimes.arguments import check_args, check_command, check_env, number_in, text_in, with_defaults
from appliance.runtimes.catalog import RuntimeSpec
from appliance.runtimes.errors import ArgumentRefused


@pytest.mark.parametrize(
    ("args", "checked"),
    [
        ([], ()),
        (["--max-model-len=128"], ("--max-model-len=128",)),
        (["--max-model-len", "128"], ("--max-model-len=128",)),
        (["--eager", "--dtype", "auto"], ("--eager", "--dtype=auto")),
        (["--share", "0.5", "--eager"], ("--share=0.5", "--eager")),
        (["--label=a=b:c-d"], ("--label=a=b:c-d",)),
    ],
)
def test_what_is_listed_passes_in_one_form(runtime: RuntimeSpec, args: list[str], checked: tuple[str, ...]) -> None:
    assert check_args(runtime, args) == checked


@pytest.mark.parametrize(
    ("args", "text", "number"),
    [
        ([], None, None),
        (["--max=12"], "12", 12),
        (["--eager", "--max", "12"], "12", 12),
        (["--max"], "", None),
        (["--max=many"], "many", None),
        (["--maximum=12"], None, None),
    ],
)
def test_the_value_of_an_argument(args: list[str], text: str | None, number: int | None) -> None:
    assert (text_in(args, "--max"), number_in(args, "--max"), number_in(args, None)) == (text, number, None)


def test_defaults_stand_for_what_is_left_open(runtime: RuntimeSpec) -> None:
    spec = msgspec.structs.replace(runtime, default_args=("--dtype=auto", "--share=0.5"))
    assert with_defaults(spec, ["--dtype=bfloat16"]) == ("--share=0.5", "--dtype=bfloat16")
    assert with_defaults(spec, ["--dtype", "bfloat16", "--share=1"]) == ("--dtype", "bfloat16", "--share=1")


@pytest.mark.parametrize(
    ("args", "detail"),
    [
        (["--max-model-len"], "--max-model-len needs a value: an integer at least 1 and at most 4096"),
        (["--max-model-len=0"], "--max-model-len cannot be '0'; it takes an integer at least 1 and at most 4096"),
        (["--max-model-len=1e2"], "--max-model-len cannot be '1e2'"),
        (["--max-model-len=4097"], "at most 4096"),
        (["--max-model-len=٣"], "--max-model-len cannot be"),
        (["--share=nan"], "--share cannot be 'nan'; it takes a number at least 0 and at most 1"),
        (["--share=inf"], "--share cannot be 'inf'"),
        (["--dtype", "--eager"], "--dtype cannot be '--eager'; it takes one of auto, bfloat16"),
        (["--eager=1"], "--eager is a flag and takes no value"),
        (["--eager", "1"], "'1' is no argument"),
        (["-m"], "'-m' is no argument"),
        (["--eager", "--eager"], "--eager is given twice"),
        (["--share=0.1", "--share", "0.2"], "--share is given twice"),
        (["--seed=1"], "does not let --seed be set; allowed are: --dtype, --eager, --label, --max-model-len, --share"),
        (["--max-model"], "does not let --max-model be set"),
        (["--trust-remote-code"], "--trust-remote-code may not be set: it runs code that comes with a model"),
        (["--uds=/tmp/x"], "--uds may not be set"),
        (["--ssl-keyfile=x"], "--ssl-keyfile may not be set"),
        (["--label=../x"], "and no path"),
        (["--label=/etc/passwd"], "and no path"),
        (["--label=a=/etc"], "and no path"),
        (["--label=.."], "and no path"),
        (["--label=x\n--uds=y"], "no control characters"),
        (["--label=" + "x" * 300], "at most 256 characters"),
    ],
)
def test_what_does_not_pass_is_named(runtime: RuntimeSpec, args: list[str], detail: str) -> None:
    with pytest.raises(ArgumentRefused) as refusal:
        check_args(runtime, args)
    assert detail in refusal.value.detail


def test_the_error_points_at_the_argument(runtime: RuntimeSpec) -> None:
    with pytest.raises(ArgumentRefused) as refusal:
        check_args(runtime, ["--max-model-len", "1", "--seed=1"])
    assert [error.pointer for error in refusal.value.errors] == ["/args/2"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(args=st.lists(st.sampled_from(["--eager", "--share", "--label", "=", "0.5", "--", "-x", "/a", "--share=1"])))
def test_only_listed_names_ever_pass(runtime: RuntimeSpec, args: list[str]) -> None:
    try:
        checked = check_args(runtime, args)
    except ArgumentRefused:
        return
    names = [word.partition("=")[0] for word in checked]
    assert len(names) == len(set(names))
    assert set(names) <= set(runtime.args)


def test_variables(runtime: RuntimeSpec) -> None:
    assert check_env(runtime, {"LIGHT_LEVEL": "3"}) == {"LIGHT_LEVEL": "3"}


@pytest.mark.parametrize(
    ("name", "value", "detail"),
    [
        ("LD_PRELOAD", "x", "LD_PRELOAD may not be set: it loads code into the engine"),
        ("CUDA_VISIBLE_DEVICES", "0", "devices are those that were leased"),
        ("PATH", "/x", "PATH may not be set"),
        ("PYTHONPATH", "/x", "PYTHONPATH may not be set"),
        ("https_proxy", "x", "engines have no network"),
        ("OTHER", "x", "does not let OTHER be set; allowed are: LIGHT_LEVEL, LIGHT_MODE"),
        ("LIGHT_LEVEL", "10", "LIGHT_LEVEL cannot be '10'; it takes an integer at least 0 and at most 9"),
    ],
)
def test_variables_that_do_not_pass(runtime: RuntimeSpec, name: str, value: str, detail: str) -> None:
    with pytest.raises(ArgumentRefused) as refusal:
        check_env(runtime, {name: value})
    assert detail in refusal.value.detail


def test_a_command_is_for_custom_images_in_containers() -> None:
    check_command("process", None, image_is_custom=False)
    check_command("docker", ["serve", "--now"], image_is_custom=True)
    for launcher, custom in (("process", True), ("docker", False)):
        with pytest.raises(ArgumentRefused):
            check_command(launcher, ["serve"], image_is_custom=custom)
