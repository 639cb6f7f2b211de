"""The zoo's models, cut where their cards say, with raw features: the boxes are those of the whole model."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.codecs import make_decoder, make_encoder, parse_profile
from models.detection import Detector
from models.fixed import load_whole
from models.partition import PartitionStore
from models.preprocess import Preprocessor
from models.runtime import load_submodel
from models.zoo import Zoo

CUTS = [(name, cut.name) for name in Zoo().names() for card in [Zoo().get(name)] for cut in card.partitions] + [
    ("yolox_nano", "stage_3"),
    ("yolox_nano", "fpn"),
]  # of the other file, which is the one that tests have


@pytest.mark.parametrize(("name", "cut"), CUTS)
def test_split_and_whole_find_the_same(name: str, cut: str, shared_dir: Path) -> None:
    card = Zoo([shared_dir / "models"]).get(name)
    partition = PartitionStore().get(card, card.partition(cut).tensors)
    head, tail = (load_submodel(path, "cpu") for path in (partition.head_path, partition.tail_path))
    profile = parse_profile("raw")
    encoder = make_encoder(profile, partition.crossing, None, 1100)
    decoder = make_decoder(profile, partition.crossing, None)
    image = cv2.imread(str(shared_dir / "data" / "images" / "000000000139.jpg"))
    assert image is not None
    picture = Preprocessor(card).prepare(image)
    features = decoder.decode(1, encoder.encode(1, head.run([picture])).slices, True, None).tensors
    detector = Detector(card)
    split, whole = detector.decode(tail.run(features)), detector.decode(load_whole(card, "cpu").run([picture]))
    assert len(whole) >= 3
    # Optimised, head and tail fuse otherwise than the whole: sums of float32 in another order.
    assert split.classes.tolist() == whole.classes.tolist()
    np.testing.assert_allclose(split.scores, whole.scores, atol=1e-4)
    np.testing.assert_allclose(split.xyxy, whole.xyxy, atol=0.05)
