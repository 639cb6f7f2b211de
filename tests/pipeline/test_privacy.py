from __future__ import annotations

from dataclasses import replace

import pytest

from models import Zoo
from pipeline.offers import OperatingPoint, points, remote_points
from pipeline.privacy import refuse_pictures, without_pictures
from splitrtc_errors import BadArgument, ProtocolError

SPLIT = points(Zoo())[0]
(REMOTE,) = remote_points(Zoo(), model=SPLIT.card.name)
CARRIES = replace(SPLIT, cut=replace(SPLIT.cut, tensors=(*SPLIT.cut.tensors, SPLIT.card.image.name)))


def test_which_points_would_send_the_picture() -> None:
    assert [point.carries_input for point in (SPLIT, REMOTE, CARRIES)] == [False, True, True]
    assert [point.is_video for point in (SPLIT, REMOTE, CARRIES)] == [False, True, False]


def test_they_are_not_offered() -> None:
    assert without_pictures([REMOTE, SPLIT, CARRIES], "no-pictures") == [SPLIT]
    assert without_pictures([REMOTE, SPLIT, CARRIES], "any") == [REMOTE, SPLIT, CARRIES]
    assert without_pictures([], "no-pictures") == []
    with pytest.raises(BadArgument, match="would send the picture"):
        without_pictures([REMOTE, CARRIES], "no-pictures")


@pytest.mark.parametrize("point", [REMOTE, CARRIES])
def test_nor_accepted(point: OperatingPoint) -> None:
    refuse_pictures(point, "any")
    refuse_pictures(SPLIT, "no-pictures")
    with pytest.raises(ProtocolError, match="would send the picture"):
        refuse_pictures(point, "no-pictures")
