"""What `images/<runtime>/runtime.toml` says: one Struct for each table, strict.

```
name = "vllm"                       # as services name it; the folder's name by convention
title = "vLLM"
mode = "high-performance"           # normal | high-performance
engine_version = "0.32.0"           # also the tag of the default image
vendors = ["nvidia", "cpu"]         # preferred first
formats = ["safetensors"]
quantised = true
encrypted = true
architectures = ["*ForCausalLM"]    # glob patterns; empty: any
routes = ["POST /v1/completions"]   # what a gateway may forward
health_path = "/health"
metrics_path = "/metrics"
usage_in_every_chunk = true         # understands stream_options.continuous_usage_stats
accepts_cache_salt = true
default_args = ["--scheduling-policy=priority"]          # where a service does not set the argument itself
priority_argument = "--scheduling-policy=priority"       # with it the engine schedules by a request's `priority`
max_in_flight = 1024                                     # what the gateway sends one replica at once at most ...
concurrency_argument = "--max-num-seqs"                  # ... unless this says
context_argument = "--max-model-len"                     # longest prompt and answer; else the model's own context
start_timeout_s = 600
stop_grace_s = 30

[sizing]                            # by what the engine's memory is estimated, see `Sizing`
[metrics]                           # names of the engine's Prometheus metrics
[process]                           # command, env, install
[docker]                            # repository, command, env, user
[args."--max-model-len"]            # what a tenant may set, see `Setting`
[env.VLLM_LOGGING_LEVEL]
```
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Identifier = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
UrlPath = Annotated[str, Meta(pattern="^/[A-Za-z0-9._/{}-]*$")]
Route = Annotated[str, Meta(pattern=r"^(GET|POST|PUT|DELETE) /[A-Za-z0-9._/{}-]*( raw)?( query)?$(?!\n)")]
"""`{model}` and `{...}` stand for one segment; `raw`: any body is passed on unread; `query`: so is a query string."""
Positive = Annotated[float, Meta(gt=0)]
Words = Annotated[tuple[str, ...], Meta(min_length=1)]


class Mode(StrEnum):
    normal = "normal"
    high_performance = "high-performance"


class _Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Setting(_Table, frozen=True, kw_only=True):
    """One argument or environment variable that a tenant may set. `flag` is an argument without a value.

    A `string` matches `pattern` as a whole; `minimum` and `maximum` bound an `integer` or `number`.
    """

    type: Literal["integer", "number", "choice", "string", "flag"]
    description: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str | None = None


class Metrics(_Table, frozen=True, kw_only=True):
    """Names as on the engine's metrics page; None where it has no such metric."""

    prompt_tokens: str
    generation_tokens: str
    running: str | None = None
    waiting: str | None = None
    kv_cache_usage: str | None = None
    time_to_first_token: str | None = None


class Sizing(_Table, frozen=True, kw_only=True):
    """By what the memory of a replica is estimated: names of arguments, None where the engine has no such one.

    `split` says over how many devices each layer is split, `groups` to how many the layers are dealt. A replica with
    several devices is started with `split` set to their number where a service sets neither. An engine without `split`
    deals its layers to all devices. `share` is the part of a device's memory that the engine takes, as a rule and by
    argument; `cache` names the bytes of the cache of keys and values, `cache_type` its precision, `block` the tokens of
    its blocks, `step` the tokens that are computed at once, `dtype` the precision that it computes in, which by itself
    is the model's or, by `auto_dtype`, 16 bits; `eager` the flag that captures no graphs; `report` is the engine by
    whose words in its log the estimate is corrected.
    """

    split_argument: str | None = None
    groups_argument: str | None = None
    step_argument: str | None = None
    block_argument: str | None = None
    cache_argument: str | None = None
    cache_type_argument: str | None = None
    dtype_argument: str | None = None
    auto_dtype: Literal["model", "half"] = "model"
    eager_argument: str | None = None
    share_argument: str | None = None
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    has_graphs: bool = False
    report: Literal["vllm"] | None = None


class ProcessForm(_Table, frozen=True, kw_only=True):
    """How the process launcher starts it. `install` holds pip's arguments, one list for each run of `pip install` in
    the runtime's folder; `requirements` is short for `[["-r", <file>]]`; `device_install` takes their place on a
    machine with NVIDIA devices. Without any no environment is made and `{python}` is the control plane's own
    interpreter.
    """

    command: Words
    env: dict[str, str] = {}
    requirements: str | None = None
    install: tuple[Words, ...] = ()
    device_install: tuple[Words, ...] = ()

    @property
    def installs(self) -> tuple[tuple[str, ...], ...]:
        return self.install or ((("-r", self.requirements),) if self.requirements else ())


class DockerForm(_Table, frozen=True, kw_only=True):
    """How containers start it. `user` None is the launcher's own."""

    repository: str
    command: Words
    env: dict[str, str] = {}
    user: int | None = None


class RuntimeSpec(_Table, frozen=True, kw_only=True):
    name: Identifier
    title: str
    description: str = ""
    mode: Mode
    engine_version: Annotated[str, Meta(pattern="^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
    vendors: Annotated[tuple[Literal["nvidia", "iluvatar", "cpu"], ...], Meta(min_length=1)]
    excluded_classes: tuple[Literal["tiangai", "zhikai"], ...] = ()
    formats: Words
    quantised: bool = False
    encrypted: bool = False
    architectures: tuple[str, ...] = ()
    excluded_architectures: dict[str, str] = {}
    """Architecture to the reason, for example that the engine has dropped it."""
    verified_architectures: tuple[str, ...] = ()
    health_path: UrlPath
    metrics_path: UrlPath
    routes: Annotated[tuple[Route, ...], Meta(min_length=1)]
    usage_in_every_chunk: bool = False
    accepts_cache_salt: bool = False
    default_args: tuple[str, ...] = ()
    priority_argument: str | None = None
    max_in_flight: Annotated[int, Meta(ge=1)] | None = None
    concurrency_argument: str | None = None
    context_argument: str | None = None
    start_timeout_s: Positive
    stop_grace_s: Positive
    sizing: Sizing = Sizing()
    metrics: Metrics
    process: ProcessForm | None = None
    docker: DockerForm | None = None
    args: dict[str, Setting] = {}
    env: dict[str, Setting] = {}
    folder: Path = field(default_factory=Path)
    """Where the runtime.toml lies; never written in it."""

    @property
    def default_image(self) -> str | None:
        return f"{self.docker.repository}:{self.engine_version}" if self.docker else None
