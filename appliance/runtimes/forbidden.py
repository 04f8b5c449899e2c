"""What no tenant ever sets, whatever a runtime.toml lists: glob patterns, each with its reason.

These load code, open listeners or files, show devices that were not leased, or hand out what the gateway guards.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

_VARIABLES: Final = {
    "LD_*": "it loads code into the engine",
    "PYTHON*": "it loads code into the engine",
    "PATH": "it chooses which programs run",
    "HOME": "it chooses which files are read",
    "TMPDIR": "it chooses where files are written",
    "BASH_ENV": "it loads code into the engine",
    "ENV": "it loads code into the engine",
    "GCONV_PATH": "it loads code into the engine",
    "*_PRELOAD": "it loads code into the engine",
    "*_VISIBLE_DEVICES": "devices are those that were leased",
    "CUDA_DEVICE_ORDER": "devices are those that were leased",
    "VLLM_SERVER_DEV_MODE": "it opens administrative routes",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "it opens routes that load files",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "it loads code into the engine",
    "VLLM_PLUGINS": "it loads code into the engine",
    "VLLM_API_KEY": "the gateway checks keys",
    "HF_TOKEN": "no secret belongs in the environment",
    "*_PROXY": "engines have no network",
    "*_proxy": "engines have no network",
    "APPLIANCE_*": "it belongs to the appliance",
}
_ARGUMENTS: Final = {
    "--trust-remote-code": "it runs code that comes with a model",
    "--model": "the appliance sets the model",
    "--tokenizer": "the appliance sets the model",
    "--served-model-name": "it is the service's own setting",
    "--host": "engines listen on a socket of their own",
    "--port": "engines listen on a socket of their own",
    "--uds": "engines listen on a socket of their own",
    "--root-path": "engines listen on a socket of their own",
    "--api-key": "the gateway checks keys",
    "--ssl-*": "the gateway terminates TLS",
    "--config": "it reads a file",
    "--chat-template": "templates are code; they come with the model",
    "--allowed-*": "it opens files or addresses to requests",
    "--download-dir": "it writes files",
    "--middleware": "it loads code into the engine",
    "--*-plugin": "it loads code into the engine",
    "--lora-modules": "it reads files",
    "--load-format": "the appliance sets the model",
    "--model-loader-extra-config": "the appliance sets the model",
}


def forbidden_variable(name: str) -> str | None:
    """Why `name` may never be set; None where a runtime may allow it."""
    return _first(_VARIABLES, name)


def forbidden_argument(name: str) -> str | None:
    return _first(_ARGUMENTS, name)


def _first(patterns: dict[str, str], name: str) -> str | None:
    return next((reason for pattern, reason in patterns.items() if fnmatchcase(name, pattern)), None)
