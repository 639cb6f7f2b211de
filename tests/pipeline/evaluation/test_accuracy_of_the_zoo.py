"""What the zoo's models reach on labelled images, where such are beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.evaluation.run import Evaluation, evaluate_accuracy


@pytest.mark.soak
@pytest.mark.parametrize(
    ("model", "level"),
    [
        # Measured on more images of the same kind, by another program.
        ("ssdlite_mbv2_coco_300", 30.5),
        ("yolox_nano", 29.2),
        ("deimv2_femto", 34.1),
        ("deimv2_atto", 25.8),
        ("picodet_s_320_coco", 29.5),
        ("fastestdet", 16.3),
    ],
)
def test_every_model_is_as_accurate_as_known_whole_and_cut(shared_dir: Path, model: str, level: float) -> None:
    pytest.importorskip("pycocotools", reason="mAP needs the extra 'eval'")
    data = shared_dir / "data"
    evaluation = Evaluation(
        data=data / "images",
        annotations=data / "coco_val_158.json",
        model=model,
        models=[shared_dir / "models"],
        profiles=["raw"],
        provider="cpu",
    )
    report = evaluate_accuracy(evaluation, print, lambda total: lambda: None)
    assert report["images"] == 158
    assert report["whole"]["map"] == pytest.approx(level, abs=1.5)
    assert report["splits"][0]["map"] == pytest.approx(report["whole"]["map"], abs=1e-4)
