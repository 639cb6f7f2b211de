"""What a card says of pre- and post-processing survives the way to JSON and back; all else is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from models.card import Constant, ModelCard
from models.task import SCHEMES, Decoding, Preprocessing
from models.zoo import Zoo
from splitrtc_errors import ModelFileError

LETTERBOX: dict[str, Any] = {
    "resize": "letterbox", "place": "centre", "pad": 114, "order": "BGR", "layout": "NHWC", "mean": [1, 2, 3],
    "scale": [1, 1, 0.5],
}  # fmt: skip


def picodet() -> dict[str, Any]:
    """A card with all that a card can have: lists of outputs, strides, a constant, a download."""
    value = copy.deepcopy(Zoo().get("picodet_s_320_coco").to_json())
    value["inputs"].append({"name": "size", "type": "float32", "shape": [1, 2]})
    value["constants"] = [{"name": "size", "values": [320, 320.5]}]
    value["download"] = {"url": "https://example.org/picodet.onnx"}
    return value


def test_a_letterbox_survives_the_way_to_json_and_back() -> None:
    read = Preprocessing.from_json(LETTERBOX, "card")
    assert read.to_json() == LETTERBOX
    assert (read.place, read.pad) == ("centre", 114)
    assert read.image_size((1, 6, 4, 3)) == (4, 6)


def test_every_card_of_the_zoo_survives_the_way_to_json_and_back() -> None:
    for name in Zoo().names():
        card = Zoo().get(name)
        assert ModelCard.from_json(card.to_json()) == card
    card = ModelCard.from_json(picodet())
    assert ModelCard.from_json(card.to_json()) == card
    assert card.constants == (Constant("size", (320.0, 320.5)),)
    assert card.image.name == "image"
    assert card.image_size == (320, 320)
    assert card.download == "https://example.org/picodet.onnx"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pad": 256}, "'pad' is from 0 to 255, not 256"),
        ({"pad": 1.5}, "'pad' is a int"),
        ({"place": "left"}, "'place' is top-left or centre"),
        ({"resize": "stretch"}, "unknown 'pad', 'place'"),
    ],
)
def test_a_letterbox_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        Preprocessing.from_json(LETTERBOX | change, "card")


@pytest.mark.parametrize("change", [{"mean": [0, 0, 1]}, {"scale": [0.5, 1, 1]}])
def test_an_integer_input_takes_the_pixels_as_they_are(change: dict[str, Any]) -> None:
    value = Zoo().get().to_json()
    value["inputs"][0]["type"] = "uint8"
    assert ModelCard.from_json(value).image.dtype == "uint8"
    value["preprocessing"] |= change
    with pytest.raises(ModelFileError, match="only a float32 input has a mean and a scale"):
        ModelCard.from_json(value)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.onnx",
        "ftp://example.org/a.onnx",
        "file:///a.onnx",
        "https://example.org/a b",
        "https://",
        "https://" + "a" * 3000,
        "http://127.0.0.1.example.org/",
        "",
    ],
)
def test_a_download_from_elsewhere_than_https_is_refused(url: str) -> None:
    with pytest.raises(ModelFileError, match="card: download: 'url' starts with https://"):
        ModelCard.from_json(picodet() | {"download": {"url": url}}, where="card")


def test_a_download_has_a_url_and_nothing_else() -> None:
    with pytest.raises(ModelFileError, match="download: unknown 'mirror'"):
        ModelCard.from_json(picodet() | {"download": {"url": "https://a/b", "mirror": "https://c/d"}})


def changed_decoding(name: str, change: dict[str, Any]) -> dict[str, Any]:
    value = copy.deepcopy(Zoo().get(name).to_json())
    value["decoding"] |= change
    return value


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("yolox_nano", {"strides": [8, 16]}, "types and shapes of scheme yolox"),
        ("yolox_nano", {"strides": []}, "'strides' is a list of integers from 1 to 1024, not"),
        ("yolox_nano", {"strides": [8, 16, True]}, "'strides' is a list of integers"),
        ("yolox_nano", {"strides": [0, 8, 16]}, "'strides' is a list of integers"),
        ("yolox_nano", {"predictions": "nothing"}, "types and shapes of scheme yolox"),
        ("deimv2_atto", {"labels": "scores", "scores": "labels"}, "types and shapes of scheme detr"),
        ("deimv2_atto", {"labels": "boxes", "boxes": "labels"}, "types and shapes of scheme detr"),
        ("deimv2_atto", {"scores": "boxes"}, "types and shapes of scheme detr"),
        ("deimv2_atto", {"iou": 0.5}, "unknown 'iou'"),
        ("picodet_s_320_coco", {"strides": [8, 16, 32]}, "types and shapes of scheme picodet"),
        ("picodet_s_320_coco", {"strides": [8, 16, 64, 32]}, "types and shapes of scheme picodet"),
        ("picodet_s_320_coco", {"scores": []}, "'scores' is a list of at least one text"),
        ("picodet_s_320_coco", {"scores": ["save_infer_model/scale_0.tmp_1"]}, "types and shapes of scheme picodet"),
        ("fastestdet", {"scheme": "yolox", "strides": [16]}, "types and shapes of scheme yolox"),
    ],
)
def test_a_decoding_that_does_not_fit_the_outputs_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        ModelCard.from_json(changed_decoding(name, change))


def test_the_number_of_classes_is_that_of_the_labels() -> None:
    for name in ("yolox_nano", "picodet_s_320_coco", "fastestdet", "ssdlite_mbv2_coco_300"):
        with pytest.raises(ModelFileError, match="one class for each label"):
            ModelCard.from_json(Zoo().get(name).to_json() | {"labels": ["cat", "dog"]})


def test_outputs_of_another_rank_are_refused() -> None:
    outputs = Zoo().get("picodet_s_320_coco").to_json()["outputs"]
    for place in range(len(outputs)):
        flat = [dict(output) for output in outputs]
        flat[place]["shape"] = []
        with pytest.raises(ModelFileError, match="types and shapes of scheme picodet"):
            ModelCard.from_json(Zoo().get("picodet_s_320_coco").to_json() | {"outputs": flat})


def test_every_scheme_has_its_members() -> None:
    for name in Zoo().names():
        decoding = Zoo().get(name).detection
        scheme = SCHEMES[decoding.scheme]
        assert len(decoding.outputs) == len(scheme.outputs)
        assert (decoding.iou is not None) == scheme.suppression
        assert bool(decoding.strides) == scheme.strides
        assert Decoding.from_json(decoding.to_json(), "card") == decoding
