from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.sources import ImageFolder, TestPattern
from splitrtc_errors import SourceError


def picture(path: Path, value: int, size: tuple[int, int] = (8, 6)) -> None:
    """Write a plain image."""
    cv2.imwrite(str(path), np.full((size[1], size[0], 3), value, np.uint8))


def test_images_come_in_the_order_of_their_names_and_sizes_may_differ(tmp_path: Path) -> None:
    picture(tmp_path / "b.png", 20)
    picture(tmp_path / "a.PNG", 10, (4, 4))
    picture(tmp_path / "c.bmp", 30)
    (tmp_path / "notes.txt").write_text("no image")
    source = ImageFolder(tmp_path, fps=4)
    for _ in range(2):  # a second time after closing
        source.open()
        first, second, third, end = source.read(), source.read(), source.read(), source.read()
        source.close()
        assert first is not None
        assert second is not None
        assert third is not None
        assert end is None
        assert [p.image[0, 0, 0] for p in (first, second, third)] == [10, 20, 30]
        assert [p.pts for p in (first, second, third)] == [0.0, 0.25, 0.5]
        assert first.image.shape == (4, 4, 3)


def test_damaged_images_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff nonsense")
    source = ImageFolder(tmp_path, fps=10)
    source.open()
    pictures = [source.read() for _ in range(3)]
    assert [picture and picture.pts for picture in pictures] == [0.0, 0.1, None]
    assert source.damaged == 1
    assert "b.jpg is not an image" in caplog.text


def test_a_folder_of_nothing_but_damaged_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff nonsense")
    source = ImageFolder(tmp_path)
    source.open()
    with pytest.raises(SourceError, match="none of its 1 images"):
        source.read()


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no images"):
        ImageFolder(tmp_path).open()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        ImageFolder(tmp_path / "gone").open()


@pytest.mark.parametrize("size", [(640, 480), (33, 17)])
def test_the_pattern_moves_and_begins_again(size: tuple[int, int]) -> None:
    source = TestPattern(*size)
    source.open()
    first, second = source.read(), source.read()
    source.close()
    source.open()
    again = source.read()
    assert first is not None
    assert second is not None
    assert again is not None
    assert first.image.shape == (size[1], size[0], 3)
    assert first.image.dtype == np.uint8
    assert (first.pts, second.pts) == (0.0, 1 / 30)
    assert not np.array_equal(first.image, second.image)
    assert np.array_equal(first.image, again.image)


def test_the_pattern_shows_eight_colours_from_white_to_black() -> None:
    source = TestPattern()
    source.open()
    picture = source.read()
    assert picture is not None
    bars = picture.image[-1, 40::80].tolist()
    assert bars[0] == [191, 191, 191]
    assert bars[1] == [0, 191, 191]  # yellow
    assert bars[-1] == [0, 0, 0]
    assert len({tuple(bar) for bar in bars}) == 8
