"""The UE's part in the decision: among which modes, on what knowledge of the link, and what follows from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from models import Zoo
from models.information import EndpointCapabilities
from pipeline.deciding import ASSUMED_RATE, Rates, need_of
from pipeline.edge import Edge
from pipeline.offers import OperatingPoint, points, videos_of
from pipeline.settings import UeSettings
from pipeline.ue import UeSession
from rtc import LinkStatistics
from signaling import Selection
from splitrtc_errors import ProtocolError

WAIT = 20.0
URL = "127.0.0.1:1"
HERE = EndpointCapabilities(("ONNX",), (), flops=1e9)

pytestmark = pytest.mark.usefixtures("patient_edges")


def every_point() -> list[OperatingPoint]:
    found = points(Zoo())
    return [*found, *videos_of([found[0].card])]


def ue(url: str, **settings: Any) -> UeSession:
    return UeSession(UeSettings(url, **{"budget": 10.0, "timeout": WAIT, "mode": "auto", "decide": "ue", **settings}))


def modes_of(offered: list[OperatingPoint], **settings: Any) -> tuple[str, ...]:
    return need_of(UeSettings(URL, **settings), offered, HERE).modes


def test_all_modes_are_asked_for_where_the_mode_is_to_be_decided_on() -> None:
    both, split = every_point(), points(Zoo())
    assert modes_of(both, mode="auto", decide="ue") == ("split", "remote", "local")
    assert modes_of(split, mode="auto", decide="network") == ("split", "local")
    assert modes_of(split, mode="auto", decide="ue", fallback=False) == ("split",)
    assert modes_of(split, mode="auto", decide="ue", profile="q8") == ("split",)
    assert modes_of(split, mode="split", decide="ue") == ("split",)
    assert modes_of(both[-1:], mode="remote", decide="ue") == ("remote",)


def test_a_model_of_which_only_the_head_is_here_cannot_run_alone() -> None:
    (first, *_) = points(Zoo())
    delivered = [replace(first, card=replace(first.card, directory=None))]
    need = need_of(UeSettings(URL, mode="auto", decide="ue"), delivered, HERE)
    assert (need.modes, need.models) == (("split",), ())


@pytest.mark.parametrize(
    ("settings", "videos"),
    [
        ({"mode": "auto", "decide": "network"}, 1),
        ({"mode": "auto", "decide": "network", "privacy": "no-pictures"}, 0),
        ({"mode": "auto"}, 0),
        ({"mode": "split", "decide": "network"}, 0),
    ],
)
async def test_the_picture_is_offered_only_where_that_may_be_chosen(settings: dict[str, Any], videos: int) -> None:
    session = UeSession(UeSettings(URL, **settings))
    offered = await session._parts.offered(URL)
    assert sum(point.is_video for point in offered) == videos
    await session.close()


@pytest.mark.parametrize("how", ["network", "ue"])
async def test_a_fast_device_with_a_slow_link_does_it_alone(
    edge: Edge, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.deciding.Rates.to", lambda *_: 50e3)
    monkeypatch.setattr("pipeline.ue.PATIENCE", WAIT)  # nothing stands in before the decision
    async with ue(edge.url, decide=how) as session:
        assert session.mode == "local"
        assert "as decided" in session.describe()["reason"]
        assert edge.sessions == 0
        async with session.run("clip") as run:
            async for result in run:
                assert result.mode == "local"
                break


@pytest.mark.parametrize("how", ["network", "ue"])
async def test_a_slow_device_sends_the_picture_unless_that_is_forbidden(
    edge: Edge, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = EndpointCapabilities(("ONNX",), (), flops=1e9)
    monkeypatch.setattr("pipeline.deciding.capabilities", lambda *_: slow)
    async with ue(edge.url, decide=how, fallback=False) as session:
        assert (session.mode, session.point.is_video) == ("remote", True)
        assert edge.sessions == 1
    async with ue(edge.url, decide=how, fallback=False, privacy="no-pictures") as session:
        assert session.mode == "split"


async def test_an_edge_cannot_have_the_device_run_what_it_does_not_have(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = Selection("local", "sha-256:" + 64 * "0", "fp32")
    monkeypatch.setattr("pipeline.edge.selected", lambda *_: strange)
    with pytest.raises(ProtocolError, match="does not have"):
        async with ue(edge.url, decide="network", fallback=True, mode="auto"):
            pass


def statistics(bits: float, dropped: int = 0) -> LinkStatistics:
    """Of a session that had ten frames answered in its last second, of so many bits in all."""
    found = LinkStatistics()
    for number in range(1, 11):
        found.sent(number, round(bits / 80), 1, 0.5)
        found.answered(number, 0.4, 0.0, 1, 0.9)
    for number in range(11, 11 + dropped):
        found.sent(number, 1_000, 1, 0.9)
        found.dropped(number, 0)
    return found


def test_a_link_is_as_fast_as_a_session_found_it() -> None:
    rates = Rates()
    assert rates.to("a") == ASSUMED_RATE
    rates.learn("a", statistics(2e6), 1.0)  # all that there was to send
    assert rates.to("a") == ASSUMED_RATE
    rates.learn("a", statistics(2e6, dropped=5), 1.0)
    assert (rates.to("a"), rates.to("b")) == (2e6, ASSUMED_RATE)
    rates.learn("a", statistics(3e6), 1.0)  # it can do more than was known
    assert rates.to("a") == 3e6
    rates.learn("a", statistics(2e6, dropped=5), 60.0)  # nothing was sent of late
    assert rates.to("a") == 3e6


async def test_what_a_session_learned_of_a_link_is_there_for_the_next_connection(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinkStatistics, "goodput", lambda *_: 1e6)
    async with ue(edge.url, decide="offer") as session:
        connection = session._connection
        assert connection is not None
        connection.lane.statistics = statistics(1e6, dropped=5)
        connection._end("lost")
        assert session._rates.to(edge.url) == 1e6
