from pathlib import Path

import pytest

from tests.plane.limits.workers import Node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path, workers=2)
