"""The task layer as data: what a card says of the way from a picture to the model's input, and from its outputs on.

`models.preprocess` and `models.detection` do what stands here. Like all of a card this is read without numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from models.members import Members
from models.tensor import TensorSpec
from splitrtc_errors import ModelFileError

__all__ = ["DETECTION", "SCHEMES", "TASKS", "TENSORS", "Decoding", "Preprocessing", "Scheme"]

DETECTION = "detection"
TENSORS = "tensors"
"""Of a model whose outputs are given as they are, to whoever knows what they mean."""
TASKS = (DETECTION, TENSORS)
"""What a card may name as its task."""

MAX_STRIDE = 1024


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes the model's input: ``(pixel - mean[plane]) * scale[plane]``, pixels from 0 to 255.

    ``resize`` is "stretch": to the input's size, bilinear, the aspect ratio is not kept; or "letterbox": it is kept,
    the picture lies at ``place`` ("top-left" or "centre"), and ``pad`` (0 to 255, before mean and scale) is around it.
    ``order`` is the order of the colour planes, ``layout`` that of the dimensions. The element type is the input's.
    """

    resize: str = "stretch"
    place: str = "top-left"
    pad: int = 0
    order: str = "RGB"
    layout: str = "NCHW"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read this part of a card strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        members = Members(value, where)
        resize = members.take_choice("resize", ("stretch", "letterbox"))
        place, pad = "top-left", 0
        if resize == "letterbox":
            place = members.take_choice("place", ("top-left", "centre"))
            pad = members.take("pad", int)
            if not 0 <= pad <= 255:
                raise ModelFileError(f"{where}: 'pad' is from 0 to 255, not {pad}")
        preprocessing = cls(
            resize=resize,
            place=place,
            pad=pad,
            order=members.take_choice("order", ("RGB", "BGR")),
            layout=members.take_choice("layout", ("NCHW", "NHWC")),
            mean=members.take_plane_values("mean"),
            scale=members.take_plane_values("scale"),
        )
        members.done()
        return preprocessing

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json()."""
        around = {"place": self.place, "pad": self.pad} if self.resize == "letterbox" else {}
        colours = {"order": self.order, "layout": self.layout, "mean": list(self.mean), "scale": list(self.scale)}
        return {"resize": self.resize, **around, **colours}

    @property
    def leaves_values(self) -> bool:
        """Whether the pixels' values stay as they are."""
        return set(self.mean) == {0.0} and set(self.scale) == {1.0}

    def image_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Width and height in the shape of the model's image input."""
        height, width = shape[2:] if self.layout == "NCHW" else shape[1:3]
        return width, height


@dataclass(frozen=True, slots=True)
class Scheme:
    """What a card's decoding has to say for one scheme; `models.detection` has a module for each.

    ``outputs`` are the members that name outputs of the model: one each, or, where ``per_stride``, as many as there
    are strides. Boxes of a scheme with ``suppression`` overlap until the worse ones are taken away.
    """

    outputs: tuple[str, ...]
    strides: bool = False
    per_stride: bool = False
    suppression: bool = True


SCHEMES = {
    "ssd": Scheme(("scores", "boxes")),
    "yolox": Scheme(("predictions",), strides=True),
    "detr": Scheme(("labels", "boxes", "scores"), suppression=False),
    "picodet": Scheme(("scores", "distances"), strides=True, per_stride=True),
    "fastestdet": Scheme(("predictions",)),
}


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the model's outputs become detections.

    ``outputs`` names the outputs of each role that ``scheme`` has, ``strides`` the pixels between the cells of each
    level's grid, where it has levels. ``iou`` is the overlap above which the worse of two boxes of one class goes;
    None for a scheme whose boxes do not overlap. ``score`` is the lowest score that is reported at all,
    ``display_score`` the one from which on a detection is worth showing to a person.

    Shapes, for C classes and an input of W x H pixels; boxes are (x1, y1, x2, y2) unless it says otherwise:

    - ssd: scores 1 x N x C, boxes 1 x N x 1 x 4 with (y1, x1, y2, x2) from 0 to 1.
    - yolox: predictions 1 x N x (5 + C): x, y, log width, log height, objectness, classes. x and y count cells from
      the cell's corner, sizes are in strides; N goes through the levels, row by row.
    - detr: labels 1 x N integers, boxes 1 x N x 4 in pixels of the input, scores 1 x N.
    - picodet: for each stride, scores 1 x N x C and distances 1 x N x 4 B: from the cell's centre to the left, top,
      right and bottom, in strides, each the mean of a softmax over B bins.
    - fastestdet: predictions 1 x (5 + C) x rows x columns: objectness, x and y from the cell's corner (tanh), width
      and height in shares of the input (sigmoid), classes; score = objectness^0.6 * class^0.4.
    """

    scheme: str
    outputs: tuple[tuple[str, ...], ...]
    score: float
    display_score: float
    iou: float | None = None
    strides: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read this part of a card strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        members = Members(value, where)
        name = members.take_choice("scheme", tuple(SCHEMES))
        scheme = SCHEMES[name]
        take = members.take_texts if scheme.per_stride else lambda role: (members.take(role, str),)
        decoding = cls(
            scheme=name,
            outputs=tuple(take(role) for role in scheme.outputs),
            score=members.take_share("score"),
            display_score=members.take_share("display_score"),
            iou=members.take_share("iou") if scheme.suppression else None,
            strides=members.take_integers("strides", 1, MAX_STRIDE) if scheme.strides else (),
        )
        members.done()
        return decoding

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json()."""
        scheme = SCHEMES[self.scheme]
        value: dict[str, Any] = {"scheme": self.scheme}
        for role, names in zip(scheme.outputs, self.outputs, strict=True):
            value[role] = list(names) if scheme.per_stride else names[0]
        if scheme.strides:
            value["strides"] = list(self.strides)
        if scheme.suppression:
            value["iou"] = self.iou
        return {**value, "score": self.score, "display_score": self.display_score}

    def fits(self, outputs: Mapping[str, TensorSpec], size: tuple[int, int], classes: int) -> bool:
        """Whether a model of so many ``classes`` and an input of ``size`` (width, height) has the outputs needed."""
        given = [[outputs.get(name) for name in names] for names in self.outputs]
        flat = [spec for specs in given for spec in specs if spec is not None]
        if len({spec.name for spec in flat}) != sum(map(len, given)):
            return False
        integers = {spec.name for spec in flat if spec.dtype in ("int32", "int64")}
        wanted = set(self.outputs[0]) if self.scheme == "detr" else set()
        if integers != wanted or not all(spec.dtype == "float32" for spec in flat if spec.name not in integers):
            return False
        return self._shapes_fit([[spec.shape for spec in specs if spec is not None] for specs in given], size, classes)

    def _shapes_fit(self, shapes: list[list[tuple[int, ...]]], size: tuple[int, int], classes: int) -> bool:
        width, height = size
        cells = [-(-width // stride) * -(-height // stride) for stride in self.strides]
        match self.scheme, shapes:
            case "ssd", [[(1, count, channels)], [boxes]]:
                return channels == classes and boxes == (1, count, 1, 4)
            case "yolox", [[predictions]]:
                return predictions == (1, sum(cells), 5 + classes)
            case "detr", [[(1, count)], [boxes], [scores]]:
                return boxes == (1, count, 4) and scores == (1, count)
            case "picodet", [scores, distances] if len(scores) == len(distances) == len(cells):
                bins = distances[0][-1] // 4 if distances[0] else 0
                return bins >= 1 and all(
                    shape == (1, count, classes) and distance == (1, count, 4 * bins)
                    for count, shape, distance in zip(cells, scores, distances, strict=True)
                )
            case "fastestdet", [[(1, channels, _, _)]]:
                return channels == 5 + classes
            case _:
                return False
