from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx.parser import parse_model

from models import Zoo
from models.information import read_information
from pipeline.cli.models.costing import size_text
from splitrtc_errors import BadArgument, MissingDependency, UnknownModel
from tests.models.graph.paths import with_weights

Call = Callable[..., Any]

NET = """<ir_version: 9, opset_import: ["" : 17]>
g (float[N,3,32,32] image) => (float[] y)
<float[8,3,3,3] a, float[2,8,1,1] b, float[64,2,1,1] c, float[8,64,3,3] d, float[3] e>
{
  [first] first_made = Conv (image, a)
  [relu] relu_made = Relu (first_made)
  [narrow] narrow_made = Conv (relu_made, b)
  [wide] wide_made = Conv (narrow_made, c)
  [last] y = Conv (wide_made, d)
}"""
LINK = ("--rtt", "1", "--rate", "10M")
BY_MACS = ("--device-speed", "100M", "--edge-speed", "100G")


@pytest.fixture
def net(tmp_path: Path) -> str:
    path = tmp_path / "net.onnx"
    path.write_bytes(with_weights(parse_model(NET)).SerializeToString())
    return str(path)


def test_show_says_what_a_model_is(splitrtc: Call, net: str) -> None:
    done = splitrtc("models", "show", net)
    assert done.exit_code == 0, done.err
    for known in ("image float32[1x3x32x32]", "ONNX IR 9, ai.onnx 17", "4 Conv, 1 Relu", "3.9 million", "4,968"):
        assert known in done.out
    done = splitrtc("models", "show", net, "--shape", "image=2x3x32x32", "--json")
    value = done.json
    assert value["inputs"] == [{"name": "image", "type": "float32", "shape": [2, 3, 32, 32]}]
    assert value.pop("operators") == {"Conv": 4, "Relu": 1}
    assert value.pop("unknown_macs") == []
    assert value["parameters"] == 216 + 16 + 128 + 4608
    assert value["split_points"] == []


def test_show_of_the_bundled_model_has_its_ladder(splitrtc: Call) -> None:
    card = Zoo().get()
    done = splitrtc("models", "show", card.name)
    assert done.exit_code == 0, done.err
    (cut,) = (cut for cut in card.partitions if cut.ladder)
    assert f"ladder of {cut.name}" in done.out
    for rung in cut.ladder:
        assert rung.profile in done.out
        assert all(f"{one.bytes:.0f}" in done.out for one in rung.measured)


def test_show_of_the_bundled_model_is_the_tr_s_model_information(splitrtc: Call) -> None:
    value = splitrtc("models", "show", Zoo().get().name, "--json").out
    import json

    fields = json.loads(value)
    fields.pop("operators")
    fields.pop("unknown_macs")
    card = Zoo().get()
    assert fields.pop("ladders") == {
        cut.name: [rung.to_json() for rung in cut.ladder] for cut in card.partitions if cut.ladder
    }
    information = read_information(json.dumps(fields).encode())
    assert information.to_json() == fields
    assert fields["identifier"] == Zoo().get().digest


def test_cuts_lists_all_of_them(splitrtc: Call, net: str) -> None:
    found = splitrtc("models", "cuts", net, "--json").json
    assert [(cut["flag"], cut["name"]) for cut in found] == [
        ("before", "first"), ("after", "first"), ("after", "relu"), ("after", "narrow"), ("after", "wide"),
        ("after", "last"),
    ]  # fmt: skip
    assert [cut["tensors"] for cut in found][3] == ["narrow_made"]
    assert found[3]["bytes"] == 2 * 30 * 30 * 4
    assert 0 < found[3]["device_macs_share"] < 1
    assert "latency_ms" not in found[3]
    best = splitrtc("models", "cuts", net, "--sort", "bytes", "--limit", "1", "--single", "--json").json
    assert [cut["name"] for cut in best] == ["narrow"]
    front = splitrtc("models", "cuts", net, "--pareto", "--json").json
    assert [cut["name"] for cut in front] == ["first", "narrow"]


def test_cuts_predicts_for_a_link(splitrtc: Call, net: str) -> None:
    words = ("models", "cuts", net, *LINK, *BY_MACS)
    found = splitrtc(*words, "--sort", "latency", "--json").json
    assert [cut["latency_ms"] for cut in found] == sorted(cut["latency_ms"] for cut in found)
    narrow = next(cut for cut in found if cut["name"] == "narrow")
    assert narrow["link_ms"] == pytest.approx(1 + 2 * 30 * 30 * 32 / 1e4)
    assert narrow["device_ms"] == pytest.approx(narrow["device_macs"] / 1e5)
    measured = splitrtc("models", "cuts", net, "--device-speed", "0.5", "--edge-speed", "1T", "--runs", "1", "--json")
    assert all(cut["latency_ms"] >= 20 for cut in measured.json)


def test_the_tables_name_every_cut(splitrtc: Call, net: str) -> None:
    done = splitrtc("models", "cuts", net, *LINK, *BY_MACS)
    assert done.exit_code == 0, done.err
    for known in ("before first", "narrow_made 1x2x30x30", "linear bottleneck", "7.2"):
        assert known in done.out


def test_cuts_measures_bytes_under_profiles(splitrtc: Call, net: str) -> None:
    found = splitrtc("models", "cuts", net, "--coded", "--samples", "1", "--json").json
    assert 0 < found[3]["coded"]["q4-zstd"] < found[3]["coded"]["q8"] < found[3]["coded"]["raw"]
    found = splitrtc("models", "cuts", net, "--profile", "q8", "--samples", "1", "--json").json
    assert set(found[3]["coded"]) == {"q8"}
    done = splitrtc("models", "cuts", net, "--coded", "--samples", "1")
    assert "q6-zstd" in done.out
    assert "mean over made-up inputs" in " ".join(done.out.split())
    done = splitrtc("models", "cuts", net, "--images", "clip")
    assert done.exit_code == BadArgument.exit_code
    assert "needs a model of the zoo" in done.error


def test_pictures_are_the_samples_of_a_model_of_the_zoo(splitrtc: Call, tiny_model: Path) -> None:
    words = ("models", "cuts", "tiny", "--models", str(tiny_model), "--coded", "--samples", "2")
    assert "2 pictures of the bundled clip" in " ".join(splitrtc(*words).out.split())


def test_best_finds_and_explains_a_cut(splitrtc: Call, net: str) -> None:
    words = ("models", "best", net, *LINK, *BY_MACS)
    found = splitrtc(*words, "--json").json
    assert found["mode"] == "split"
    assert found["cut"]["tensors"] == ["narrow_made"]
    assert found["optimal"] is True
    assert found["latency_ms"] < min(found["local"]["latency_ms"], found["remote"]["latency_ms"])
    text = " ".join(splitrtc(*words).out.split())
    for known in ("Cut here", "narrow_made", "all on the device", "No other cut", "10 Mbit/s"):
        assert known in text


def test_best_may_be_no_cut_at_all(splitrtc: Call, net: str) -> None:
    slow = ("models", "best", net, "--rate", "1k", *BY_MACS)
    assert splitrtc(*slow, "--json").json["mode"] == "local"
    assert "whole model on the device" in " ".join(splitrtc(*slow).out.split())
    assert splitrtc(*slow, "--split-only", "--json").json["mode"] == "split"
    fast = ("models", "best", net, "--rate", "1G", "--device-speed", "1M", "--edge-speed", "1T")
    assert splitrtc(*fast, "--json").json["mode"] == "remote"
    assert "no head on the device pays" in " ".join(splitrtc(*fast).out.split())


def test_best_within_a_memory_limit(splitrtc: Call, net: str) -> None:
    words = ("models", "best", net, "--rate", "1k", *BY_MACS, "--memory", "100k")
    found = splitrtc(*words, "--json").json
    assert found["local"] is None
    assert found["cut"]["head_memory"] <= 100_000
    assert found["lower_bound_ms"] <= found["latency_ms"]
    assert splitrtc(*words).exit_code == 0


def test_best_under_a_profile(splitrtc: Call, net: str) -> None:
    words = ("models", "best", net, *LINK, *BY_MACS, "--split-only", "--profile", "q8", "--samples", "1")
    found = splitrtc(*words, "--json").json
    assert found["cut"]["coded"] == {"q8": pytest.approx(1800, rel=0.1)}
    assert "bytes as q8, measured on made-up inputs" in " ".join(splitrtc(*words).out.split())


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("best", "--memory", "lots"), BadArgument),
        (("best", "--device-speed", "fast"), BadArgument),
        (("best", "--edge-speed", "-1"), BadArgument),
        (("best", "--rate", "x"), BadArgument),
        (("best", "--profile", "no-such"), UnknownModel),
        (("draw", "--out", "cuts.txt"), BadArgument),
    ],
)
def test_what_is_wrong_is_one_line(splitrtc: Call, net: str, words: tuple[str, ...], kind: Any) -> None:
    command, *flags = words
    done = splitrtc("models", command, net, *flags)
    assert done.exit_code == kind.exit_code
    assert done.error


def test_a_model_without_products_has_no_speed_in_macs(splitrtc: Call, tmp_path: Path) -> None:
    path = tmp_path / "relu.onnx"
    text = '<ir_version: 9, opset_import: ["" : 17]> g (float[1,64] x) => (float[1,64] y) { a = Relu (x) y = Neg (a) }'
    path.write_bytes(parse_model(text).SerializeToString())
    done = splitrtc("models", "best", str(path), *BY_MACS)
    assert done.exit_code == BadArgument.exit_code
    assert "no multiplications" in done.error
    assert splitrtc("models", "best", str(path), "--runs", "1").exit_code == 0


def test_time_measures_nodes_and_parts(splitrtc: Call, net: str) -> None:
    words = ("models", "time", net, "--at", "narrow_made", "--runs", "2")
    found = splitrtc(*words, "--json").json
    assert [part["part"] for part in found["parts"]] == ["head", "tail"]
    assert all(part["ms"] > 0 and part["predicted_ms"] > 0 for part in found["parts"])
    assert {node["node"] for node in found["nodes"]} == {"first", "relu", "narrow", "wide", "last"}
    assert sum(node["ms"] for node in found["nodes"]) == pytest.approx(found["whole_ms"])
    text = splitrtc(*words).out
    for known in ("The whole model", "predicted ms", "slowest nodes", "last"):
        assert known in text
    assert "predicted" not in splitrtc("models", "time", net, "--runs", "1").out
    three = splitrtc("models", "time", net, "--after", "relu", "--after", "wide", "--runs", "1", "--json").json
    assert [part["part"] for part in three["parts"]] == ["part 1", "part 2", "part 3"]


def test_draw_makes_a_picture(splitrtc: Call, net: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason=MissingDependency.__name__)
    out = tmp_path / "cuts.svg"
    done = splitrtc("models", "draw", net, "--out", str(out))
    assert done.exit_code == 0, done.err
    assert "6 cuts, of which 1 are labelled" in done.out
    text = out.read_text()
    assert text.startswith("<?xml")
    found = splitrtc("models", "draw", net, "--out", str(out), "--json").json
    assert [cut["name"] for cut in found["cuts"]] == ["narrow"]


def test_sizes_for_people() -> None:
    assert [size_text(size) for size in (12, 1234, 5e6, 7e9)] == ["12 B", "1.2 kB", "5.0 MB", "7.0 GB"]
