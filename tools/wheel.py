"""Build hook of the wheel: what `make compile` made goes into it, and makes it one for this platform and Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

RECORD = "appliance/gateway/plane/compiled.json"


class CompiledHook(BuildHookInterface):  # type: ignore[type-arg] # generic over a configuration that it does not read
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """`FileNotFoundError` where a compiled file of the record is gone. An editable install finds them in place."""
        record = Path(self.root) / RECORD
        if version == "editable" or not record.is_file():
            return
        for path in [RECORD, *json.loads(record.read_bytes())["files"]]:
            if not (Path(self.root) / path).is_file():
                raise FileNotFoundError(path)
            build_data["force_include"][path] = path
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
