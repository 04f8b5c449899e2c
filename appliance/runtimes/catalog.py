"""The runtimes that this appliance knows: read once at start from `images/*/runtime.toml` and further folders.

A file that is not understood is an error that names the file and the member; nothing is skipped.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from appliance.kernel.errors import NotFound
from appliance.kernel.resources import resource
from appliance.runtimes.errors import RuntimeFileInvalid
from appliance.runtimes.forbidden import forbidden_argument, forbidden_variable
from appliance.runtimes.placeholders import unknown_placeholders
from appliance.runtimes.spec import DockerForm, Mode, ProcessForm, RuntimeSpec, Setting
from gpu.vendors.gate import has_nvidia_hardware

__all__ = ["Catalog", "Mode", "RuntimeSpec", "read_runtime"]

FILE_NAME = "runtime.toml"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ARGUMENT = re.compile(r"--[a-z0-9][a-z0-9-]*")


class Catalog:
    """Runtimes by name; immutable."""

    def __init__(self, runtimes: Iterable[RuntimeSpec]) -> None:
        self._by_name: dict[str, RuntimeSpec] = {}
        for runtime in runtimes:
            other = self._by_name.setdefault(runtime.name, runtime)
            if other is not runtime:
                raise RuntimeFileInvalid(f"{runtime.folder} and {other.folder} both define runtime {runtime.name!r}")

    @classmethod
    def load(cls, further: Iterable[Path] = (), *, has_devices: Callable[[], bool] = has_nvidia_hardware) -> Catalog:
        """The runtimes that come with the appliance and those of `further` folders (`<folder>/<runtime>/`), with
        what they install on a machine like this one.
        """
        adapted = _for_devices if has_devices() else _unchanged
        return cls(
            adapted(read_runtime(file))
            for folder in (resource("images"), *further)
            for file in sorted(_existing(folder).glob(f"*/{FILE_NAME}"))
        )

    def get(self, name: str) -> RuntimeSpec:
        """Raises `NotFound` with the names that there are."""
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(sorted(self._by_name)) or "none"
            raise NotFound(f"there is no runtime {name!r}; there are: {known}") from None

    def all(self) -> tuple[RuntimeSpec, ...]:
        return tuple(self._by_name[name] for name in sorted(self._by_name))


def read_runtime(file: Path) -> RuntimeSpec:
    """Read and check one file; raises `RuntimeFileInvalid`."""
    try:
        values: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        if "folder" in values:
            raise RuntimeFileInvalid(f"{file}: `folder` is not for the file to say")
        spec = msgspec.convert(values, RuntimeSpec)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise RuntimeFileInvalid(f"{file}: {error}") from error
    for member, problem in _problems(spec, file.parent):
        raise RuntimeFileInvalid(f"{file}: {member}: {problem}")
    return msgspec.structs.replace(spec, folder=file.parent.resolve())


def _for_devices(spec: RuntimeSpec) -> RuntimeSpec:
    if spec.process is None or not spec.process.device_install:
        return spec
    form = msgspec.structs.replace(spec.process, requirements=None, install=spec.process.device_install)
    return msgspec.structs.replace(spec, process=form)


def _unchanged(spec: RuntimeSpec) -> RuntimeSpec:
    return spec


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise RuntimeFileInvalid(f"the folder of runtimes {folder} does not exist")
    return folder


def _problems(spec: RuntimeSpec, folder: Path) -> Iterator[tuple[str, str]]:
    """What the schema cannot say, as pairs of member and problem."""
    if spec.mode is Mode.normal and spec.quantised:
        yield "quantised", "normal mode never serves quantised models"
    if spec.mode is Mode.normal and spec.encrypted:
        yield "encrypted", "normal mode never serves encrypted models"
    if spec.process is None and spec.docker is None:
        yield "process", "the runtime needs [process] or [docker]"
    if spec.process is not None:
        yield from _form_problems("process", spec.process, spec)
        yield from _install_problems(spec.process, folder)
    if spec.docker is not None:
        yield from _form_problems("docker", spec.docker, spec)
    yield from _allow_list_problems(spec)
    yield from _scheduling_problems(spec)


def _allow_list_problems(spec: RuntimeSpec) -> Iterator[tuple[str, str]]:
    for name, setting in spec.args.items():
        member = f'args."{name}"'
        yield from _setting_problems(member, setting)
        if not _ARGUMENT.fullmatch(name):
            yield member, "an argument is written --like-this"
        if reason := forbidden_argument(name):
            yield member, f"it may never be set by a tenant: {reason}"
    for name, setting in spec.env.items():
        member = f"env.{name}"
        yield from _setting_problems(member, setting)
        if setting.type == "flag" or not _VARIABLE.fullmatch(name):
            yield member, "a variable is written LIKE_THIS and has a value"
        if reason := forbidden_variable(name):
            yield member, f"it may never be set by a tenant: {reason}"


def _scheduling_problems(spec: RuntimeSpec) -> Iterator[tuple[str, str]]:
    """What the gateway goes by must be what a service may set."""
    named = {
        "priority_argument": spec.priority_argument,
        "concurrency_argument": spec.concurrency_argument,
        "context_argument": spec.context_argument,
        **{
            f"sizing.{name}": value
            for name, value in msgspec.structs.asdict(spec.sizing).items()
            if name.endswith("_argument")
        },
        **{f"default_args[{position}]": argument for position, argument in enumerate(spec.default_args)},
    }
    for member, argument in named.items():
        if argument is not None and argument.partition("=")[0] not in spec.args:
            yield member, f"{argument.partition('=')[0]} is not one of [args]"


def _form_problems(table: str, form: ProcessForm | DockerForm, spec: RuntimeSpec) -> Iterator[tuple[str, str]]:
    for text in (*form.command, *form.env.values()):
        for placeholder in unknown_placeholders(text):
            yield table, f"there is no placeholder {placeholder}"
    both = sorted({word.partition("=")[0] for word in form.command} & set(spec.args))
    if both:
        yield f"{table}.command", f"{both[0]} is set here and may not be a tenant's argument too"


def _install_problems(form: ProcessForm, folder: Path) -> Iterator[tuple[str, str]]:
    if form.install and form.requirements:
        yield "process.requirements", "give either `requirements` or `install`"
    for words in (*form.installs, *form.device_install):
        for option, value in itertools.pairwise(words):
            if option in ("-r", "--requirement", "-c", "--constraint") and not (folder / value).is_file():
                yield "process.install", f"there is no file {value!r} beside the runtime.toml"


def _setting_problems(member: str, setting: Setting) -> Iterator[tuple[str, str]]:
    if bool(setting.choices) != (setting.type == "choice"):
        yield member, "`choices` belong to type choice, which has at least one"
    if bool(setting.pattern) != (setting.type == "string"):
        yield member, "`pattern` belongs to type string, which has one"
    bounded = setting.minimum is not None or setting.maximum is not None
    if bounded and setting.type not in ("integer", "number"):
        yield member, "`minimum` and `maximum` belong to types integer and number"
    if setting.pattern is not None:
        try:
            re.compile(setting.pattern)
        except re.error as error:
            yield member, f"`pattern` is no regular expression: {error}"
