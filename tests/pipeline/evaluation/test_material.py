from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation import material
from pipeline.evaluation.material import SEGMENT, Span, chosen_spans, parse_segments, survey
from pipeline.sources import VideoFile
from splitrtc_errors import BadArgument, SourceError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures, each of one level of gray, and a text."""
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((4, 6, 3), number * 10, np.uint8))
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


@pytest.fixture
def video(make_video: Callable[..., Path]) -> Path:
    """Ten frames, each of one level of gray."""
    return make_video()


def test_spans_by_hand() -> None:
    assert chosen_spans(300, 300) == (Span(0, 300),)
    assert chosen_spans(800, 300) == (Span(0, 60), Span(185, 60), Span(370, 60), Span(555, 60), Span(740, 60))
    assert chosen_spans(800, 100) == (Span(0, 50), Span(750, 50))
    assert chosen_spans(800, 1) == (Span(0, 1),)


@given(st.integers(1, 5000), st.integers(1, 1000))
def test_spans_stay_within_the_clip_apart_and_within_the_limit(total: int, limit: int) -> None:
    spans = chosen_spans(total, limit)
    assert spans[0].start == 0
    assert sum(span.count for span in spans) <= min(total, limit)
    ends = [span.start + span.count for span in spans]
    assert ends[-1] <= total
    assert all(end <= span.start for end, span in zip(ends, spans[1:], strict=False))
    assert total <= limit or (len({span.count for span in spans}) == 1 and spans[0].count <= SEGMENT)


def test_segments_are_read() -> None:
    assert parse_segments("0:60, 240:5") == (Span(0, 60), Span(240, 5))


@pytest.mark.parametrize("text", ["", "5", "0:0", "0:-3", "0:60,59:2", "9:1,0:1", "0:1,", "a:b"])
def test_other_segments_are_refused(text: str) -> None:
    with pytest.raises(BadArgument, match="segments"):
        parse_segments(text)


def test_a_clip_is_read_segment_by_segment(video: Path) -> None:
    chosen = survey(video, segments=(Span(1, 2), Span(4, 1)))
    assert (chosen.total, chosen.frames) == (10, 3)
    assert str(chosen) == f"{video}: 3 of 10 frames, as segments START:COUNT 1:2, 4:1"
    source = VideoFile(video, exact=True)
    source.open()
    frames = [picture.image for _ in range(5) if (picture := source.read()) is not None]
    source.close()
    parts = list(chosen.read())
    assert [len(part) for part in parts] == [2, 1]
    for image, index in zip([*parts[0], *parts[1]], (1, 2, 4), strict=True):
        assert np.array_equal(image, frames[index])


def test_all_frames_of_a_short_clip_are_taken(video: Path) -> None:
    chosen = survey(video)
    assert chosen.spans == (Span(0, 10),)
    assert str(chosen) == f"{video}: all 10 frames"


def test_of_a_folder_every_picture_is_a_segment(folder: Path) -> None:
    chosen = survey(folder)
    assert str(chosen) == f"{folder}: 5 of 5 pictures"
    assert [part[0][0, 0, 0] for part in chosen.read()] == [0, 10, 20, 30, 40]


def test_pictures_are_spread_over_those_wanted(folder: Path) -> None:
    chosen = survey(folder, frames=2, wanted=lambda name: name != "0.png")
    assert chosen.total == 4
    assert [part[0][0, 0, 0] for part in chosen.read()] == [10, 30]


def test_what_cannot_be_used_is_told(folder: Path, video: Path, tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="none of the pictures"):
        survey(folder, wanted=lambda name: False)
    with pytest.raises(BadArgument, match="folder of pictures"):
        survey(folder, segments=(Span(0, 1),))
    with pytest.raises(BadArgument, match="has 10 frames: no segment 9:2"):
        survey(video, segments=(Span(0, 1), Span(9, 2)))
    with pytest.raises(SourceError, match="no file"):
        survey(tmp_path / "none.mp4")
    with pytest.raises(SourceError, match=r"cannot open"):
        survey(folder / "notes.txt")
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no pictures"):
        survey(empty)


def test_a_damaged_picture_is_told(folder: Path) -> None:
    (folder / "2.png").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"cannot read the picture .*2\.png"):
        list(survey(folder).read())


def test_a_segment_that_memory_cannot_hold_is_refused(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(material, "MAX_SEGMENT_BYTES", 64 * 48 * 3 * 2)
    assert len(next(survey(video, segments=(Span(0, 2),)).read())) == 2
    with pytest.raises(BadArgument, match="--segments"):
        next(survey(video, segments=(Span(0, 3),)).read())


def test_a_video_of_which_no_frame_can_be_decoded_is_told(video: Path) -> None:
    data = video.read_bytes()
    first, last = data.index(b"mdat") + 4, data.index(b"moov") - 4
    video.write_bytes(data[:first] + bytes(last - first) + data[last:])
    with pytest.raises(SourceError, match="holds no frame"):
        survey(video)
