"""Settings: a frozen struct, read once by the composition root and handed down.

Order, later wins: `config/default.toml`, the file named by `APPLIANCE_CONFIG` (or `--config`), the environment:
`APPLIANCE_ADMIN_PORT` is the top-level `admin_port`, `APPLIANCE_GATEWAY__WORKERS` is `workers` in `[gateway]`.
An unknown name or a value of the wrong type is an error that names it; nothing is ignored.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from appliance.kernel.errors import Misconfigured
from appliance.kernel.resources import resource

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]

SOCKET_PATH_LIMIT = 107  # sockaddr_un.sun_path less its final zero
LONGEST_BELOW_HOME = len("/run/e/rpl_00000000000000000000/engine.sock")
RESERVED = ("APPLIANCE_TEST_", "APPLIANCE_CRASH_")
"""Variables with other readers: the tests and the crash points."""
OTHERS = frozenset(f"APPLIANCE_{name}" for name in ("CONFIG", "URL", "KEY", "CA", "TENANT", "CACHE"))
"""Variables with other readers: this module, the command line, the image builder."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class GatewaySettings(_Section, frozen=True):
    name: str
    host: str
    user: str
    workers: Count
    first_port: Annotated[int, Meta(ge=1, le=65520)]
    drain_s: Seconds
    tls: bool
    head_s: Seconds
    idle_s: Seconds
    body_grace_s: Seconds
    body_min_rate: Annotated[int, Meta(ge=0)]
    connections: Count
    connections_per_peer: Count
    access_log: bool
    access_log_bytes: Count
    spool_bytes: Count
    capture_bytes: Count


class EngineSettings(_Section, frozen=True):
    ready_probe_s: Seconds
    ready_period_s: Seconds
    stop_grace_s: Seconds
    backoff_first_s: Seconds
    backoff_cap_s: Seconds
    runtime_folders: list[str]
    environments: str


class ComputeSettings(_Section, frozen=True):
    probe_period_s: Seconds
    probe_deadline_s: Seconds
    telemetry_bytes: Count
    simulation: str


class DockerSettings(_Section, frozen=True):
    host: str
    user: Annotated[int, Meta(ge=1)]
    allow_old_toolkit: bool


class ModelSettings(_Section, frozen=True):
    import_roots: list[str]


class LimitSettings(_Section, frozen=True):
    services: Count
    tenant_services: Count
    tenant_replicas: Count
    tenant_devices: Count
    tenant_device_memory_bytes: Count
    tenant_cpus: Count
    tenant_memory_bytes: Count
    tenant_storage_bytes: Count
    tenant_keys: Count
    upload_bytes: Count
    body_bytes: Count


class LoginSettings(_Section, frozen=True):
    idle_s: Seconds
    lifetime_s: Seconds


class LogSettings(_Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"]
    format: Literal["auto", "json", "console"]


class Settings(_Section, frozen=True):
    home: str
    bind: str
    admin_port: Port
    tenant_port: Port
    metrics_port: Port
    hostnames: list[str]
    database_url: str
    launcher: Literal["process", "docker"]
    demo: bool
    tenant_trust: Literal["trusted", "untrusted"]
    on_stop: Literal["stop-all", "leave-running"]
    gateway: GatewaySettings
    engines: EngineSettings
    compute: ComputeSettings
    docker: DockerSettings
    models: ModelSettings
    limits: LimitSettings
    logins: LoginSettings
    log: LogSettings

    @property
    def home_path(self) -> Path:
        return Path(self.home)


def load(environ: Mapping[str, str], *, file: Path | None = None) -> Settings:
    """Read the settings; raise `Misconfigured` with the name of what is wrong."""
    values = _read(resource("config/default.toml"))
    chosen = file or (Path(environ["APPLIANCE_CONFIG"]) if environ.get("APPLIANCE_CONFIG") else None)
    if chosen is not None:
        _merge(values, _read(chosen), where=str(chosen))
    _merge(values, _from_environ(values, environ), where="the environment")
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"settings: {error}") from error
    return _completed(settings)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"settings file {path}: {error}") from error


def _merge(values: dict[str, Any], changes: Mapping[str, Any], *, where: str) -> None:
    for name, change in changes.items():
        if name not in values:
            close = difflib.get_close_matches(name, values, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise Misconfigured(f"{where}: there is no setting {name!r}{hint}")
        if isinstance(values[name], dict) and isinstance(change, Mapping):
            _merge(values[name], change, where=f"{where} [{name}]")
        else:
            values[name] = change


def _from_environ(values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith("APPLIANCE_") or variable in OTHERS or variable.startswith(RESERVED):
            continue
        section, _, name = variable.removeprefix("APPLIANCE_").lower().rpartition("__")
        known = values.get(section, {}) if section else values
        value: Any = [part for part in text.split(",") if part] if isinstance(known.get(name), list) else text
        (changes.setdefault(section, {}) if section else changes)[name] = value
    return changes


def _completed(settings: Settings) -> Settings:
    home = Path(settings.home).expanduser().absolute()
    longest = SOCKET_PATH_LIMIT - LONGEST_BELOW_HOME
    if len(str(home)) > longest:
        raise Misconfigured(
            f"APPLIANCE_HOME has {len(str(home))} characters ({home}); the engines' sockets below it permit {longest}"
        )
    url = settings.database_url or f"sqlite+aiosqlite:///{home}/db/appliance.sqlite"
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+asyncpg://", 1)
    if not url.startswith(("postgresql+asyncpg://", "sqlite+aiosqlite:///")):
        raise Misconfigured(
            f"database_url must begin with postgresql:// or sqlite+aiosqlite:///, not {url.split(':')[0]}:"
        )
    return msgspec.structs.replace(settings, home=str(home), database_url=url)
