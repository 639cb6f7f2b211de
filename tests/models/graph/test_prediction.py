from __future__ import annotations

from typing import Any

import pytest

from models.graph.prediction import Deployment, Latency
from splitrtc_errors import BadArgument

DEPLOYMENT = Deployment((1.0, 2.0, 5.0), rtt=20.0, rate=8e6, device_speed=0.5, edge_speed=4.0)


def test_a_frame_takes_head_link_and_tail() -> None:
    latency = DEPLOYMENT.latency(3.0, 5.0, 10_000)
    assert latency == Latency(device=6.0, link=30.0, edge=1.25)
    assert latency.total == 37.25


def test_the_whole_model_on_the_device_sends_nothing() -> None:
    assert DEPLOYMENT.local() == Latency(16.0, 0.0, 0.0)


def test_each_side_has_its_speed() -> None:
    assert DEPLOYMENT.device_ms() == [2.0, 4.0, 10.0]
    assert DEPLOYMENT.edge_ms() == [0.25, 0.5, 1.25]


@pytest.mark.parametrize("wrong", [{"rtt": -1.0}, {"rate": 0.0}, {"device_speed": 0.0}, {"edge_speed": float("nan")}])
def test_what_gives_no_time_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadArgument, match="at least"):
        Deployment((1.0,), **wrong)
