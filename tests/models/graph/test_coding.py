from __future__ import annotations

import numpy as np
import pytest
from onnx.parser import parse_model

from models.codecs import profile_ids
from models.graph import Model, coding
from models.graph.coding import coded_sizes
from models.graph.costs import Costs, costs_of
from splitrtc_errors import BadArgument, UnknownModel

NET = """<ir_version: 9, opset_import: ["" : 17]> g (float[1,4,16,16] x) => (float[1,4,16,16] y, int64[4] s) {
  r = Relu (x)
  n = Log (x)
  k = Cast <to = 7> (r)
  s = ReduceMax <axes = [0, 2, 3], keepdims = 0> (k)
  y = Add (r, n)
}"""
SIZE = 4 * 16 * 16


@pytest.fixture(scope="module")
def costs() -> Costs:
    return costs_of(Model(parse_model(NET)))


@pytest.fixture(scope="module")
def samples() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": random.normal(size=(1, 4, 16, 16)).astype(np.float32)} for _ in range(3)]


def test_bytes_under_each_profile(costs: Costs, samples: list[dict[str, np.ndarray]]) -> None:
    told: list[int] = []
    found = coded_sizes(costs, samples, progress=told.append)
    assert sum(told) == len(costs.path.readers)
    assert set(found) == set(profile_ids())
    r, n, k, x = (costs.model.graph.tensor_id(name) for name in "rnkx")
    assert found["raw"][r] == pytest.approx(4 * SIZE, rel=0.05)
    assert found["q8"][r] == pytest.approx(SIZE, rel=0.05)
    assert found["q4"][r] == pytest.approx(SIZE / 2, rel=0.1)
    assert found["q4-zstd"][r] < found["q4"][r]  # half of it are zeros
    assert x in found["q8"]
    assert k in found["raw"]
    assert k not in found["q8"]  # no floating point
    assert n not in found["q8"]  # NaN


def test_tensors_are_done_in_groups(
    costs: Costs, samples: list[dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = coded_sizes(costs, samples, ["raw-zstd"])
    monkeypatch.setattr(coding, "MAX_BYTES_AT_ONCE", 4 * SIZE)
    assert coded_sizes(costs, samples, ["raw-zstd"]) == whole


def test_some_tensors_only(costs: Costs, samples: list[dict[str, np.ndarray]]) -> None:
    r = costs.model.graph.tensor_id("r")
    found = coded_sizes(costs, samples[:1], ["q8", "raw"], [r])
    assert {profile: list(sizes) for profile, sizes in found.items()} == {"q8": [r], "raw": [r]}


def test_what_cannot_be_measured(costs: Costs, samples: list[dict[str, np.ndarray]]) -> None:
    with pytest.raises(BadArgument, match="sample"):
        coded_sizes(costs, [])
    with pytest.raises(UnknownModel):
        coded_sizes(costs, samples, ["no-such"])
