import json
import logging
from pathlib import Path

import pytest
from vllm_launcher.phases import PhaseHandler, weight_bytes


def test_vllms_messages_become_phases(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    logger = logging.Logger("vllm.some.module")  # noqa: LOG001 - one that no other test sees
    logger.addHandler(PhaseHandler())
    logger.info("Starting to load model %s...", tmp_path)
    logger.info("something else")
    logger.info("Loading weights took %.2f seconds", 0.5)
    logger.info("Starting vLLM server on %s", "unix:/run/e.sock")
    lines = capfd.readouterr().err.splitlines()
    assert [json.loads(line.removeprefix("appliance-phase ")) for line in lines] == [
        {"phase": "loading_weights", "done_bytes": 0, "total_bytes": 100},
        {"phase": "loading_weights", "done_bytes": 100, "total_bytes": 100},
        {"phase": "warming_up"},
        {"phase": "ready"},
    ]


def test_the_size_of_a_folder_without_weights_is_zero(tmp_path: Path) -> None:
    assert weight_bytes(str(tmp_path)) == 0
