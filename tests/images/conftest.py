"""The code that runs inside engines, imported from its folder as the engines' processes do."""

import sys
from pathlib import Path

IMAGES = Path(__file__).parents[2] / "images"
for folder in ("transformers", "vllm", "demo-model"):
    sys.path.append(str(IMAGES / folder))
