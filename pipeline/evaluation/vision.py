"""One model, whole and cut in two: what device and edge do to a frame, without any network between them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from models import Detector, PartitionStore, Preprocessor, load_submodel
from models.fixed import load_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models import Detections, ModelCard, PartitionCard
    from pipeline.frames import Image

__all__ = ["DETECTION_SCORE", "Vision"]

DETECTION_SCORE = 0.3
"""The lowest score of a detection that two runs have to agree on."""


class Vision:
    """A model with its pre- and post-processing. Any number of threads may share it."""

    def __init__(
        self, card: ModelCard, cut: PartitionCard, *, provider: str = "auto", score: float, variant: str = "fp32"
    ) -> None:
        """``score`` is the lowest one of a detection that is reported, ``variant`` the head's.

        Raises ModelError, MissingDependency.
        """
        self.card = card
        store = PartitionStore()
        self.partition = store.get(card, cut.tensors)
        self._whole = load_whole(card, provider=provider)
        self._head = load_submodel(store.head(card, cut.tensors, variant).head_path, provider=provider)
        self._tail = load_submodel(self.partition.tail_path, provider=provider)
        for submodel in (self._whole, self._head, self._tail):
            submodel.warm_up()
        self._detector = Detector(card, score)
        self._own = threading.local()

    @property
    def provider(self) -> str:
        """The execution provider that the models really run on."""
        return self._whole.provider

    def whole(self, image: Image) -> Detections:
        """What the whole model sees in a picture, in pixels of its input."""
        return self._detector.decode(self._whole.run([self._preprocessor.prepare(image)]))

    def head(self, image: Image) -> list[NDArray[Any]]:
        """A picture's intermediate data."""
        return self._head.run([self._preprocessor.prepare(image)])

    def tail(self, tensors: Sequence[np.ndarray[Any, Any]]) -> Detections:
        """What the model's second part sees in intermediate data, in pixels of the model's input."""
        return self._detector.decode(self._tail.run(list(tensors)))

    def place(self, found: Detections, frame_size: tuple[int, int]) -> Detections:
        """Detections in pixels of the model's input, moved into those of a picture of this width and height."""
        return type(found)(self._preprocessor.undo(found.xyxy, frame_size), found.scores, found.classes)

    def resized(self, image: Image) -> Image:
        """The picture as large as the model takes it: what a device would send that spares every needless pixel."""
        import cv2

        _, _, width, height = self._preprocessor.placed((image.shape[1], image.shape[0]))
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)

    @property
    def _preprocessor(self) -> Preprocessor:
        if not hasattr(self._own, "preprocessor"):  # one serves one thread
            self._own.preprocessor = Preprocessor(self.card)
        preprocessor = self._own.preprocessor
        assert isinstance(preprocessor, Preprocessor)
        return preprocessor
