from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.evaluation.material import Span, survey
from pipeline.evaluation.pictures import CODECS, PICTURES, picture_contenders
from pipeline.evaluation.stills import STILL_CODECS, PictureCodec
from pipeline.evaluation.video_codecs import VIDEO_CODECS
from pipeline.frames import Image
from splitrtc_errors import BadArgument, CodecError, MissingDependency

ALL = [codec for codecs in CODECS.values() for codec in codecs]
WORKING = [codec for codec in ALL if codec.name != "webp 4:4:4"]
by_name = pytest.mark.parametrize("codec", WORKING, ids=lambda codec: codec.name)


@pytest.fixture(scope="module")
def frames(clip_path: Path) -> Sequence[Image]:
    """The start of the clip at an odd size, which 4:2:0 does not have."""
    images = next(survey(clip_path, segments=(Span(0, 4),)).read())
    return [np.asarray(cv2.resize(image, (161, 121), interpolation=cv2.INTER_AREA), np.uint8) for image in images]


def similarity(codec: PictureCodec, frames: Sequence[Image], quality: int) -> float:
    """Mean PSNR of the frames after coding."""
    coded = list(codec.code(frames, quality))
    assert [one.image.shape for one in coded] == [image.shape for image in frames]
    return float(np.mean([cv2.PSNR(image, one.image) for image, one in zip(frames, coded, strict=True)]))


@by_name
def test_every_frame_comes_back_in_order(codec: PictureCodec, frames: Sequence[Image]) -> None:
    middle = codec.qualities[len(codec.qualities) // 2]
    # Levels that grow from frame to frame, so that one of another time would show.
    steps = [(image // 2 + 30 * number).astype(np.uint8) for number, image in enumerate(frames)]
    coded = list(codec.code(steps, middle))
    assert len(coded) == len(frames)
    for image, one in zip(steps, coded, strict=True):
        assert abs(float(image.mean()) - float(one.image.mean())) < 3
        assert 0 < one.size < image.nbytes
        assert min(one.encode, one.decode) > 0


@by_name
def test_the_best_quality_is_good_and_takes_the_most_bytes(codec: PictureCodec, frames: Sequence[Image]) -> None:
    sizes = {q: sum(one.size for one in codec.code(frames, q)) for q in codec.qualities}
    cheap, dear = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    assert {cheap, dear} == {codec.qualities[0], codec.qualities[-1]}
    assert similarity(codec, frames, dear) > max(similarity(codec, frames, cheap) + 3, 33)


@pytest.mark.parametrize("codec", VIDEO_CODECS.values(), ids=lambda codec: codec.name)
def test_what_does_not_move_costs_next_to_nothing(codec: PictureCodec, frames: Sequence[Image]) -> None:
    first, *others = (one.size for one in codec.code([frames[0]] * 4, codec.qualities[2]))
    assert max(others) < first / 5


@pytest.mark.parametrize("codec", VIDEO_CODECS.values(), ids=lambda codec: codec.name)
def test_colours_are_not_shifted(codec: PictureCodec) -> None:
    # A range or a matrix that is wrong somewhere moves these by 10 levels or more.
    colours = np.array([[0, 0, 0], [255, 255, 255], [220, 60, 60], [60, 220, 60], [60, 60, 220], [128] * 3], np.uint8)
    image = np.repeat(np.repeat(colours[None], 96, axis=0), 32, axis=1)
    (one,) = codec.code([image], min(codec.qualities))
    centres = one.image[48, 16::32].astype(int)
    assert np.abs(centres - colours).max() <= 4


def test_what_this_installation_lacks_is_told(frames: Sequence[Image]) -> None:
    h264 = VIDEO_CODECS["h264"]
    with pytest.raises(MissingDependency, match="has no libnothing"):
        list(replace(h264, encoder="libnothing").code(frames, 30))
    with pytest.raises(MissingDependency, match=r"no 4:4:4"):
        list(STILL_CODECS["webp"][1].code(frames, 90))


def test_what_an_encoder_refuses_is_told(frames: Sequence[Image]) -> None:
    h264 = VIDEO_CODECS["h264"]
    with pytest.raises(CodecError, match="h264 cannot code a picture of 161x121"):
        list(replace(h264, options={"preset": "nonsense"}).code(frames, 30))
    with pytest.raises(CodecError, match="cannot code a picture of 65600x1"):
        list(STILL_CODECS["jpeg"][0].code([np.zeros((1, 65600, 3), np.uint8)], 50))


def test_the_default_is_every_codec_at_every_quality_and_size() -> None:
    contenders = picture_contenders(PICTURES)
    names = [contender.name for contender in contenders]
    assert len(set(names)) == len(names) == 2 * sum(len(codec.qualities) for codec in ALL)
    assert PICTURES == "jpeg,webp,h264,vp8,vp9,av1"


def test_codec_quality_and_size_can_be_chosen() -> None:
    contenders = picture_contenders("h264:30, jpeg:90@camera")
    assert [one.name for one in contenders] == [
        "h264 crf30 input",
        "h264 crf30 camera",
        "jpeg 4:2:0 q90 camera",
        "jpeg 4:4:4 q90 camera",
    ]
    assert [one.series for one in contenders][::2] == ["h264 input", "jpeg 4:2:0 camera"]


@pytest.mark.parametrize("text", ["", "h265", "jpeg:", "jpeg@screen", "jpeg:90:90", "jpeg,,webp"])
def test_other_lists_are_refused(text: str) -> None:
    with pytest.raises(BadArgument, match="CODEC"):
        picture_contenders(text)
