from __future__ import annotations

import numpy as np
import pytest

from models import Preprocessor, Zoo
from models.pictures import bgr_of, even_size, i420_of


@pytest.mark.parametrize("size", [(64, 48), (33, 48), (64, 21), (5, 3), (1, 1)])
def test_a_picture_survives_up_to_its_colours_edges(size: tuple[int, int]) -> None:
    width, height = size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    picture = np.stack([60 + 2 * x, 200 - 2 * y, 100 + x + y], axis=-1).astype(np.uint8)
    even_width, even_height = even_size(size)
    planes = i420_of(picture)
    assert planes.shape == (even_height * 3 // 2, even_width)
    back = bgr_of(planes, size)
    assert back.shape == picture.shape
    assert np.abs(back.astype(int) - picture).max() <= 6


def test_what_the_edge_makes_of_it_is_what_the_device_would_have_made() -> None:
    """The device brings the picture to the model's size; `prepare` does nothing to such a one but normalise it."""
    card = Zoo().get()
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    fitted = Preprocessor(card).fit(picture).copy()
    width, height = card.image_size
    assert fitted.shape == (height, width, 3)
    assert np.array_equal(Preprocessor(card).prepare(fitted), Preprocessor(card).prepare(picture))
