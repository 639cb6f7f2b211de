from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from onnx import ModelProto

from benchmarks.architectures import inception, unet
from models import Zoo
from models.graph import Model
from models.graph.candidates import Catalogue
from models.graph.costs import Costs, costs_of
from pipeline.cutplot import BYTES, CUT, WORK, Reference, plot_cuts
from splitrtc_errors import BadArgument, SinkError


@pytest.fixture(scope="module")
def costs() -> Costs:
    return costs_of(Model.load(Zoo().get().path))


def draw(costs: Costs, path: Path, labelled: int = 1) -> None:
    found = Catalogue(costs).frontier()
    chosen = sorted(found[1:-1], key=lambda cut: cut.bytes)[:labelled]
    plot_cuts(costs, found, chosen, [Reference("as JPEG", 20_000)], "a title", path)


def share_of(picture: np.ndarray, colour: str) -> float:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return float((np.abs(picture.astype(int) - (blue, green, red)).max(axis=2) <= 6).mean())


def upper(picture: np.ndarray) -> np.ndarray:
    """The curves, without the blocks below, which may have any colour."""
    return picture[: len(picture) // 2]


def test_the_picture_has_curves_cuts_and_blocks(costs: Costs, tmp_path: Path) -> None:
    path = tmp_path / "cuts.png"
    draw(costs, path)
    picture = cv2.imread(str(path))
    assert picture is not None
    assert picture.shape[1] > 1200
    assert share_of(picture, BYTES) > 0.003
    assert share_of(picture, WORK) > 0.001
    assert share_of(upper(picture), CUT) > 0.0001
    draw(costs, path, labelled=0)
    unmarked = cv2.imread(str(path))
    assert unmarked is not None
    assert share_of(upper(unmarked), CUT) == 0.0


def test_an_svg_is_xml(costs: Costs, tmp_path: Path) -> None:
    path = tmp_path / "cuts.svg"
    draw(costs, path)
    assert ElementTree.parse(path).getroot().tag.endswith("svg")


@pytest.mark.parametrize("proto", [inception(64, 1), unet()], ids=["many branches", "skips"])
def test_graphs_of_other_shapes(proto: ModelProto, tmp_path: Path) -> None:
    draw(costs_of(Model(proto)), tmp_path / "other.png", labelled=2)
    assert (tmp_path / "other.png").stat().st_size > 10_000


def test_what_cannot_be_drawn(costs: Costs, tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match=r"\.png or \.svg"):
        draw(costs, tmp_path / "cuts.gif")
    with pytest.raises(BadArgument, match="nothing to draw"):
        plot_cuts(costs, [], [], [], "", tmp_path / "cuts.png")
    with pytest.raises(SinkError, match="cannot write"):
        draw(costs, tmp_path / "none" / "cuts.png")


def test_without_matplotlib_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pipeline.plot import require_matplotlib\nrequire_matplotlib('the picture of the cuts')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "the picture of the cuts needs matplotlib: pip install 'splitrtc[plot]'" in done.stderr
