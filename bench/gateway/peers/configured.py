"""The peers that are programs of others, each started with its committed configuration."""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Final

from bench.gateway.environments import executable
from bench.gateway.machine import find, started
from bench.gateway.target import Features, Target, TlsPair, get
from bench.gateway.upstream import Upstream
from tests.support.ports import free_ports
from tests.support.waiting import eventually

KEY: Final = "sk-bench-8d3f1c5a7e9b2d4f6a8c0e1b3d5f7a9c"
LIMITED_KEY: Final = "sk-bench-limited-to-one-request-a-minute"
ENVOY_LOG: Final = "envoy.access.jsonl"
_START_S: Final = 120.0
"""LiteLLM imports for a long time."""


@contextmanager
def nginx(home: Path, upstream: Upstream, tls: TlsPair, core: int) -> Iterator[Target]:
    ports = free_ports(2)
    configuration = _write(home / "nginx.conf", user=getpass.getuser(), **_places(home, upstream, tls, ports))
    command = [find("nginx"), "-c", str(configuration), "-p", str(home)]
    with _running("nginx", command, core=core, home=home, port=ports[0], alive="/health") as root:
        yield Target("nginx", ports[0], root, Features(), tls_port=ports[1])


@contextmanager
def envoy(home: Path, upstream: Upstream, tls: TlsPair, core: int) -> Iterator[Target]:
    ports = free_ports(2)
    places = _places(home, upstream, tls, ports) | {"key": KEY, "tls_key": tls.key, "limited_key": LIMITED_KEY}
    configuration = _write(home / "envoy.yaml", access_log=str(home / ENVOY_LOG), **places)
    command = [executable("envoy", "envoy"), "--config-path", str(configuration), "--concurrency", "1"]
    command += ["--disable-hot-restart", "--log-level", "warning"]
    with _running("envoy", command, core=core, home=home, port=ports[0], alive="/") as root:
        features = Features(key=True, limits=True, usage=True, log=True)
        yield Target("envoy", ports[0], root, features, KEY, LIMITED_KEY, tls_port=ports[1])


@contextmanager
def vllm_router(home: Path, upstream: Upstream, tls: TlsPair, core: int) -> Iterator[Target]:  # noqa: ARG001
    """Its workers are URLs: it reaches the upstream over TCP."""
    first, metrics = free_ports(2)
    command = [executable("vllm-router", "vllm-router"), "--host", "127.0.0.1", "--port", str(first)]
    command += ["--worker-urls", upstream.url, "--policy", "round_robin", "--log-level", "error"]
    command += ["--prometheus-port", str(metrics), "--max-concurrent-requests", "4096"]
    with _running("vllm-router", command, core=core, home=home, port=first, alive="/health") as root:
        yield Target("vllm-router", first, root, Features())


@contextmanager
def litellm(home: Path, upstream: Upstream, tls: TlsPair, core: int) -> Iterator[Target]:  # noqa: ARG001
    """It reaches the upstream over TCP, as the model's `api_base` is a URL."""
    (port,) = free_ports(1)
    configuration = _write(home / "litellm.yaml", url=upstream.url, key=KEY)
    command = [executable("litellm", "litellm"), "--config", str(configuration), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "DISABLE_ADMIN_UI": "True"}
    alive = "/health/liveliness"
    with _running("litellm", command, core=core, home=home, port=port, alive=alive, environ=environ) as root:
        yield Target("litellm", port, root, Features(key=True), KEY)


def _places(home: Path, upstream: Upstream, tls: TlsPair, ports: Sequence[int]) -> dict[str, object]:
    return {
        "home": home,
        "socket": upstream.socket,
        "port": ports[0],
        "tls_port": ports[1],
        "certificate": tls.certificate,
        "key": tls.key,
    }


def _write(path: Path, **places: object) -> Path:
    """The committed file of this name with its places filled in."""
    template = Path(__file__).with_name(path.name).read_text(encoding="utf-8")
    path.write_text(template.format(**places), encoding="utf-8")
    return path


@contextmanager
def _running(
    name: str,
    command: Sequence[str],
    *,
    core: int,
    home: Path,
    port: int,
    alive: str,
    environ: Mapping[str, str] | None = None,
) -> Iterator[int]:
    log = home / f"{name}.output"
    with started(command, core=core, log=log, environ=environ) as process:

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
            return get(port, alive)[0] < 500

        eventually(answers, _START_S, message=f"{name} answers", ignoring=(OSError, HTTPException))
        yield process.pid
