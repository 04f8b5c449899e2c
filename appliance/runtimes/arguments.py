"""What a tenant sets of an engine: `args` and `env` against the runtime's allow-lists. Pure.

Nothing is passed through that is not listed, once, with a value in its bounds. Values never name paths. The error
names the argument and says what is allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

from appliance.kernel.errors import FieldError
from appliance.runtimes.errors import ArgumentRefused
from appliance.runtimes.forbidden import forbidden_argument, forbidden_variable
from appliance.runtimes.spec import RuntimeSpec, Setting

LONGEST_VALUE = 256
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")
_PATH = re.compile(r"(^|[=,:\s])(~|\.{1,2}(/|$))|/")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def check_args(runtime: RuntimeSpec, args: Sequence[str]) -> tuple[str, ...]:
    """The arguments in one form: `--name=value`, and `--name` for a flag. Raises `ArgumentRefused`.

    `--x 1` is one element `--x=1` or the two `--x`, `1`.
    """
    seen: set[str] = set()
    checked: list[str] = []
    for position, name, value in _pairs(runtime, args):
        pointer = f"/args/{position}"
        setting = _listed(name, runtime.args, forbidden_argument(name), pointer, f"the {runtime.name} runtime")
        if name in seen:
            raise _refused(pointer, f"{name} is given twice")
        seen.add(name)
        if setting.type == "flag":
            if value is not None:
                raise _refused(pointer, f"{name} is a flag and takes no value")
            checked.append(name)
        elif value is None:
            raise _refused(pointer, f"{name} needs a value: {_allowed(setting)}")
        else:
            checked.append(f"{name}={_checked(name, value, setting, pointer)}")
    return tuple(checked)


def with_defaults(runtime: RuntimeSpec, args: Sequence[str]) -> tuple[str, ...]:
    """`args` in the form of `check_args`, after the runtime's defaults for what they leave open."""
    named = {argument.partition("=")[0] for argument in args}
    return (*(own for own in runtime.default_args if own.partition("=")[0] not in named), *args)


def with_devices(
    runtime: RuntimeSpec,
    args: Sequence[str],
    devices: int,
    *,
    device_share: float = 100,
    cache_bytes: int | None = None,
) -> tuple[str, ...]:
    """`args` with what they leave open: the model is split over all `devices`, and of a device that is shared the
    engine takes no more than its `device_share` percent; one that cannot be told so takes `cache_bytes` for its cache.
    """
    sizing = runtime.sizing
    named = {argument.partition("=")[0] for argument in args}
    added = []
    if (
        sizing.split_argument is not None
        and devices > 1
        and not named & {sizing.split_argument, sizing.groups_argument}
    ):
        added.append(f"{sizing.split_argument}={devices}")
    if device_share < 100 and sizing.share_argument is not None:
        if sizing.share_argument not in named:
            added.append(f"{sizing.share_argument}={math.floor(10 * sizing.share * device_share) / 1000:g}")
    elif device_share < 100 and cache_bytes is not None and sizing.cache_argument not in {None, *named}:
        added.append(f"{sizing.cache_argument}={cache_bytes}")
    return (*added, *args)


def text_in(args: Sequence[str], name: str) -> str | None:
    """What `--name=value` or `--name`, `value` gives; None where it is not there."""
    for position, argument in enumerate(args):
        given, equals, value = argument.partition("=")
        if given == name:
            return value if equals else next(iter(args[position + 1 :]), "")
    return None


def number_in(args: Sequence[str], name: str | None) -> int | None:
    """The same as a whole number; None where it is none."""
    text = text_in(args, name) if name is not None else None
    return int(text) if text is not None and _INTEGER.fullmatch(text) else None


def check_env(runtime: RuntimeSpec, env: Mapping[str, str]) -> dict[str, str]:
    """The variables, as they are. Raises `ArgumentRefused`."""
    checked: dict[str, str] = {}
    for name, value in env.items():
        pointer = f"/env/{name.replace('~', '~0').replace('/', '~1')}"
        setting = _listed(name, runtime.env, forbidden_variable(name), pointer, f"the {runtime.name} runtime")
        checked[name] = _checked(name, value, setting, pointer)
    return checked


def check_command(launcher: str, command: Sequence[str] | None, *, image_is_custom: bool) -> None:
    """Only a custom image in a container may be given a command of its own. Raises `ArgumentRefused`."""
    if not command:
        return
    if launcher != "docker":
        raise _refused("/command", f"a command may only be set for containers; this appliance launches by {launcher!r}")
    if not image_is_custom:
        raise _refused("/command", "a command may only be set for a custom image; the runtime brings its own")
    if any(not word or "\0" in word or len(word) > LONGEST_VALUE for word in command):
        raise _refused("/command", f"each word of a command has 1 to {LONGEST_VALUE} characters and no NUL")


def _pairs(runtime: RuntimeSpec, args: Sequence[str]) -> Iterator[tuple[int, str, str | None]]:
    """Position, name and value of each argument."""
    position = 0
    while position < len(args):
        name, equals, value = args[position].partition("=")
        if not name.startswith("--"):
            raise _refused(
                f"/args/{position}", f"{args[position]!r} is no argument: write --name=value or --name, value"
            )
        at, position = position, position + 1
        setting = runtime.args.get(name)
        if equals:
            yield at, name, value
        elif setting is not None and setting.type != "flag" and position < len(args):
            yield at, name, args[position]
            position += 1
        else:
            yield at, name, None


def _listed(name: str, settings: Mapping[str, Setting], forbidden: str | None, pointer: str, who: str) -> Setting:
    if forbidden is not None:
        raise _refused(pointer, f"{name} may not be set: {forbidden}")
    if name not in settings:
        allowed = ", ".join(sorted(settings)) or "none"
        raise _refused(pointer, f"{who} does not let {name} be set; allowed are: {allowed}")
    return settings[name]


def _checked(name: str, value: str, setting: Setting, pointer: str) -> str:
    if len(value) > LONGEST_VALUE or _UNSAFE.search(value):
        raise _refused(pointer, f"{name}: a value has at most {LONGEST_VALUE} characters and no control characters")
    match setting.type:
        case "integer":
            good = _INTEGER.fullmatch(value) is not None and _within(float(value), setting)
        case "number":
            good = _is_number(value) and _within(float(value), setting)
        case "choice":
            good = value in setting.choices
        case _:
            good = re.fullmatch(setting.pattern or "", value) is not None and _PATH.search(value) is None
    if not good:
        raise _refused(pointer, f"{name} cannot be {value!r}; it takes {_allowed(setting)}")
    return value


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value)) and "_" not in value
    except ValueError:
        return False


def _within(number: float, setting: Setting) -> bool:
    low = setting.minimum is None or number >= setting.minimum
    return low and (setting.maximum is None or number <= setting.maximum)


def _allowed(setting: Setting) -> str:
    match setting.type:
        case "choice":
            return "one of " + ", ".join(setting.choices)
        case "string":
            return f"text like {setting.pattern}, and no path"
        case _:
            bounds = [f"at least {setting.minimum:g}"] if setting.minimum is not None else []
            bounds += [f"at most {setting.maximum:g}"] if setting.maximum is not None else []
            article = "an integer" if setting.type == "integer" else "a number"
            return " ".join([article, " and ".join(bounds)]).strip()


def _refused(pointer: str, detail: str) -> ArgumentRefused:
    return ArgumentRefused(detail, errors=[FieldError(pointer, detail)])
