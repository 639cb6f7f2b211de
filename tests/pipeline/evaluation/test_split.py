from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models import EncodedFrame, Encoder, Zoo
from models.codecs.scalar import ScalarEncoder
from pipeline.evaluation.contender import Outcome, Segment
from pipeline.evaluation.split import Split, parse_profiles, series_of
from pipeline.evaluation.vision import Vision
from pipeline.frames import Image
from pipeline.offers import points
from rtc.units import UNIT_HEADER_SIZE

FRAMES = 6


@pytest.fixture(scope="module")
def vision() -> Vision:
    card = Zoo().get()
    return Vision(card, card.default_partition, provider="cpu", score=0.3)


@pytest.fixture(scope="module")
def segment(vision: Vision, pictures: Sequence[Image]) -> Segment:
    """Frames that have nothing to do with each other."""
    images = pictures[:FRAMES]
    zeros = [0.0] * FRAMES
    return Segment(0, images, images, zeros, [vision.head(image) for image in images], zeros)


def split(profile: str, **settings: Any) -> Split:
    (point,) = points(Zoo(), model=Zoo().get().name, partition="bottleneck_7", profile=profile)
    return Split(profile, series_of(profile), "split", point, **settings)


def run(contender: Split, segment: Segment, vision: Vision) -> list[Outcome]:
    return list(contender.run(segment, vision))


def test_raw_sees_what_the_whole_model_sees(segment: Segment, vision: Vision) -> None:
    for image, outcome in zip(segment.images, run(split("raw"), segment, vision), strict=True):
        expected = vision.whole(image)
        assert outcome.found.classes.tolist() == expected.classes.tolist()
        assert outcome.found.xyxy == pytest.approx(expected.xyxy, abs=1e-2)


def test_units_are_counted_with_their_headers(segment: Segment, vision: Vision) -> None:
    (outcome, *_) = run(split("q8"), segment, vision)
    elements = 64 * 19 * 19
    payload = 1160 - UNIT_HEADER_SIZE - 7  # a slice has a header of its own
    assert outcome.size == elements + -(-elements // payload) * (UNIT_HEADER_SIZE + 7)


def test_without_loss_the_seed_does_not_matter(segment: Segment, vision: Vision) -> None:
    one, other = (run(split("q4-zstd", seed=seed), segment, vision) for seed in (0, 1))
    assert [outcome.size for outcome in one] == [outcome.size for outcome in other]
    assert all(np.array_equal(a.found.xyxy, b.found.xyxy) for a, b in zip(one, other, strict=True))


def test_loss_is_drawn_from_the_seed_and_seen_by_the_decoder(segment: Segment, vision: Vision) -> None:
    whole = run(split("q8"), segment, vision)
    lossy, again, other = (run(split("q8", loss=0.4, seed=seed), segment, vision) for seed in (0, 0, 1))

    def differ(one: Sequence[Outcome], two: Sequence[Outcome]) -> bool:
        return any(not np.array_equal(a.found.scores, b.found.scores) for a, b in zip(one, two, strict=True))

    assert differ(whole, lossy)
    assert differ(lossy, other)
    assert not differ(lossy, again)
    assert [outcome.size for outcome in whole] == [outcome.size for outcome in lossy]


@pytest.mark.parametrize(("loss", "burst"), [(0.05, 1.0), (0.05, 3.0), (0.5, 4.0), (0.5, 1.5)])
def test_slices_get_lost_at_the_rate_and_in_runs_of_the_length_that_is_asked_for(loss: float, burst: float) -> None:
    channel = split("q8", loss=loss, burst=burst)
    enter, stay = channel._chance(False), channel._chance(True)
    assert enter / (enter + 1 - stay) == pytest.approx(loss)
    # Chance alone makes runs of 1 / (1 - loss): shorter ones are not to be had.
    assert 1 / (1 - stay) == pytest.approx(max(burst, 1 / (1 - loss)))


def test_a_channel_that_loses_everything_does(segment: Segment, vision: Vision) -> None:
    assert all(outcome.decode == 0 for outcome in run(split("q8", loss=1.0, burst=5.0), segment, vision))


def test_what_was_lost_whole_leaves_the_detections_of_before(segment: Segment, vision: Vision) -> None:
    outcomes = run(split("q8", loss=1.0), segment, vision)
    assert all(len(outcome.found) == outcome.edge == outcome.decode == 0 for outcome in outcomes)
    assert all(outcome.size > 0 for outcome in outcomes)


class Recorder(Encoder):
    """Notes what an encoder is told, in order."""

    def __init__(self, encoder: Encoder, heard: list[tuple[str, int, list[bool]]]) -> None:
        self._encoder = encoder
        self._heard = heard

    def encode(self, frame_id: int, tensors: Sequence[np.ndarray[Any, Any]]) -> EncodedFrame:
        coded = self._encoder.encode(frame_id, tensors)
        self._heard.append(("sent", frame_id, [True] * len(coded.slices)))
        return coded

    def acknowledged(self, frame_id: int, received: Sequence[bool]) -> None:
        self._heard.append(("acknowledged", frame_id, list(received)))


@pytest.mark.parametrize("rtt", [1, 2, 3])
def test_acknowledgements_come_back_after_the_round_trip(
    segment: Segment, vision: Vision, monkeypatch: pytest.MonkeyPatch, rtt: int
) -> None:
    heard: list[tuple[str, int, list[bool]]] = []
    make = "pipeline.evaluation.split.make_encoder"
    monkeypatch.setattr(
        make, lambda profile, tensors, *others: Recorder(ScalarEncoder(tensors, 8, None, *others), heard)
    )
    run(split("q8", rtt_frames=rtt, loss=0.3), segment, vision)
    sent = {frame: heard.index(("sent", frame, slices)) for what, frame, slices in heard if what == "sent"}
    assert list(sent) == list(range(1, FRAMES + 1))
    told = {frame: place for place, (what, frame, _) in enumerate(heard) if what == "acknowledged"}
    assert list(told) == list(range(1, FRAMES - rtt + 1))
    for frame, place in told.items():
        assert sent[frame + rtt - 1] < place < sent[frame + rtt]
    bitmaps = [received for what, _, received in heard if what == "acknowledged"]
    assert {len(received) for received in bitmaps} == {len(heard[0][2])}
    assert {flag for received in bitmaps for flag in received} == {True, False}


def test_a_frame_that_was_lost_whole_is_told_with_the_next(
    segment: Segment, vision: Vision, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[str, int, list[bool]]] = []

    class Small(Recorder):
        """Every frame in one slice, so that losing it loses the frame."""

        def encode(self, frame_id: int, tensors: Sequence[np.ndarray[Any, Any]]) -> EncodedFrame:
            return EncodedFrame(super().encode(frame_id, tensors).slices[:1])

    make = "pipeline.evaluation.split.make_encoder"
    monkeypatch.setattr(make, lambda profile, tensors, *others: Small(ScalarEncoder(tensors, 8, None, *others), heard))
    run(split("q8", rtt_frames=1, loss=0.5, seed=3), segment, vision)
    told = [(frame, received) for what, frame, received in heard if what == "acknowledged"]
    frames = [frame for frame, _ in told]
    assert frames == list(range(1, len(frames) + 1))
    assert {tuple(received) for _, received in told} == {(True,), (False,)}
    for place, (what, frame, received) in enumerate(heard):
        if what == "acknowledged" and not any(received):
            # The next word is that of a later frame, before anything else is sent.
            following = heard[place + 1]
            assert following[0] == "acknowledged"
            assert following[1] == frame + 1


def test_a_segment_begins_anew(segment: Segment, vision: Vision) -> None:
    """What a decoder remembers conceals losses, so it would show."""
    lossy = split("q8", loss=0.5)
    (first, *_) = run(lossy, segment, vision)
    (again, *_) = run(lossy, replace(segment, images=segment.images), vision)
    assert np.array_equal(first.found.scores, again.found.scores)


@pytest.mark.parametrize(
    ("profile", "series"),
    [
        ("raw", "raw"),
        ("raw-zstd", "raw-zstd"),
        ("q8", "q"),
        ("q4-zstd", "q-zstd"),
        ("klt:step=1.5", "klt"),
        ("klt:step=1.5,rdo=.06", "klt"),
        ("klt:mode=light,step=2", "klt:mode=light"),
        ("avc:crf=20,preset=fast", "avc:preset=fast"),
    ],
)
def test_profiles_that_differ_in_numbers_are_one_series(profile: str, series: str) -> None:
    assert series_of(profile) == series


def test_lists_of_profiles_may_hold_parameters() -> None:
    text = "raw, klt:step=1.5,rdo=0.1 ,q8-zstd,klt:step=2"
    assert parse_profiles(text) == ["raw", "klt:step=1.5,rdo=0.1", "q8-zstd", "klt:step=2"]
    assert parse_profiles("a=b") == ["a=b"]  # for whoever reads it to refuse
