"""Runtimes and images as the management API shows and takes them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from appliance.runtimes.spec import Mode

Reference = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._/:-]{0,254}:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(@sha256:[0-9a-f]{64})?$(?!\n)",
        description="repository:tag, or repository:tag@sha256:... to pin the content",
    ),
]
EngineVersion = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$(?!\n)")]


class SettingView(Struct, frozen=True, omit_defaults=True):
    """One argument (`name` begins with `--`) or variable that may be set for a service."""

    name: str
    type: Literal["integer", "number", "choice", "string", "flag"]
    description: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str | None = None


class Runtime(Struct, frozen=True, kw_only=True):
    """`ready`: it can be started here at once. `launchers`: the ones it has a form for."""

    name: str
    title: str
    description: str
    mode: Mode
    engine_version: str
    vendors: tuple[str, ...]
    excluded_classes: tuple[str, ...]
    formats: tuple[str, ...]
    quantised: bool
    encrypted: bool
    architectures: tuple[str, ...]
    verified_architectures: tuple[str, ...]
    routes: tuple[str, ...]
    launchers: tuple[str, ...]
    default_image: str | None
    ready: bool
    args: list[SettingView]
    env: list[SettingView]


class Image(Struct, frozen=True, kw_only=True):
    """`id` and `created_at` are null for the image that comes with the runtime."""

    id: str | None
    runtime: str
    launcher: str
    reference: str
    digest: str | None
    engine_version: str
    is_default: bool
    created_at: datetime | None


class ImageRegister(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The image must hold the runtime as `images/<runtime>/` defines it; it is looked for when a replica starts."""

    runtime: str
    reference: Reference
    engine_version: EngineVersion
