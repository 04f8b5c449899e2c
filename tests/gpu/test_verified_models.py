"""The six verified models, from checkpoints with their real shapes, against published figures; prints the errors."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from appliance.models.estimation import estimate_version
from gpu.estimate.errors import EstimateImpossible
from gpu.estimate.estimate import Workload
from tests.gpu import checkpoints
from tests.gpu.checkpoints import LLAMA2_7B, dense

GIB = 1024**3
KIB = 1024


class Known(NamedTuple):
    """Parameters in billions, weights in GiB of 16 bits, cache of one token in KiB, devices that it is split over."""

    config: dict[str, Any]
    parameters: float
    weights: float
    cache: int
    splits: tuple[int, ...]


def shape(layers: int, hidden: int, inner: int, heads: int, kv_heads: int, vocabulary: int) -> dict[str, Any]:
    return LLAMA2_7B | {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
    }


KNOWN = {
    "llama-2-7b": Known(LLAMA2_7B, 6.738, 12.55, 512, (1, 2, 4, 8, 16)),
    "llama-2-13b": Known(shape(40, 5120, 13824, 40, 40, 32000), 13.016, 24.24, 800, (1, 2, 4, 8)),
    "baichuan-2-7b": Known(shape(32, 4096, 11008, 32, 32, 125696), 7.506, 13.98, 512, (1, 2, 4, 8, 16)),
    "baichuan-2-13b": Known(shape(40, 5120, 13696, 40, 40, 125696), 13.897, 25.88, 800, (1, 2, 4, 8)),
    "qwen2-72b": Known(shape(80, 8192, 29568, 64, 8, 152064), 72.706, 135.43, 320, (1, 2, 4, 8, 16)),
    "yi-1.5-34b": Known(shape(60, 7168, 20480, 56, 8, 64000), 34.389, 64.05, 240, (1, 2, 4, 8)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_verified_model(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = KNOWN[name]
    folder = checkpoints.write(tmp_path / "m", known.config, dense(known.config))
    told = estimate_version(folder, Workload(context=4096), [])
    weights = told.weights_bytes / GIB
    with capsys.disabled():
        error = weights / known.weights - 1
        sys.stdout.write(
            f"\n{name}: weights {weights:.2f} GiB, published {known.weights} ({error:+.2%}); "
            f"cache {told.kv_bytes_per_token / KIB:.0f} KiB a token, published {known.cache}\n"
        )
    assert told.weights_bytes / 2 == pytest.approx(known.parameters * 1e9, rel=1e-3)
    assert weights == pytest.approx(known.weights, rel=1e-3)
    assert told.kv_bytes_per_token == known.cache * KIB
    for ranks in known.splits:
        split = estimate_version(folder, Workload(context=4096, ranks=ranks), [])
        assert split.weights_bytes == pytest.approx(told.weights_bytes / ranks, rel=0.02)
    for ranks in (3, 6, 9):
        with pytest.raises(EstimateImpossible, match=rf"cannot be split over {ranks} devices; choose one of \[1, 2"):
            estimate_version(folder, Workload(context=4096, ranks=ranks), [])
