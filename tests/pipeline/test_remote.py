"""The `remote` mode between real endpoints: frame numbers are drawn into the pictures, and a model reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.frame_numbers import camera, is_srtp, number_found, number_in, watched_link, write_reader
from models import Zoo
from pipeline.edge import Edge
from pipeline.offers import points, remote_points
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession
from signaling import ConnectRequest
from splitrtc_errors import NoCommonOperatingPoint, ProtocolError

BackTo = Callable[[dict[str, set[str]]], Awaitable[None]]


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """The folder of the model "reader", with its card."""
    write_reader(tmp_path / "reader")
    return tmp_path / "reader"


@pytest.fixture
async def reading_edge(reader: Path) -> AsyncIterator[Edge]:
    async with Edge(EdgeSettings("127.0.0.1:0", workers=1, model=("reader",), models=(reader,))) as edge:
        yield edge


@pytest.mark.parametrize(
    ("loss", "seed"), [(1, 1), pytest.param(1, 2, marks=pytest.mark.soak), pytest.param(5, 4, marks=pytest.mark.soak)]
)
async def test_every_answer_is_to_the_picture_it_was_found_in(
    reading_edge: Edge, reader: Path, loss: int, seed: int
) -> None:
    """Also when the first frames are lost, and others on their way, pictures as well as results."""
    link = f"rtt=20,loss={loss}%,seed={seed}"
    settings = UeSettings(reading_edge.url, model="reader", models=(reader,), mode="remote", link=link, budget=2.0)
    with watched_link(lose=4):
        async with UeSession(settings) as session:
            assert (session.describe()["mode"], session.describe()["profile"]) == ("remote", "video")
            results = [result async for result in session.run(camera(120), every=True)]
    answered = [result for result in results if result.answered]
    assert [number_found(result) for result in answered] == [number_in(result.frame.image) for result in answered]
    assert len({number_in(result.frame.image) for result in answered}) == len(answered) > 50
    outcomes = Counter(result.status for result in results)
    assert outcomes.total() == 120
    assert outcomes["lost"] >= 1  # the first ones
    assert outcomes["error"] == 0
    assert {result.bytes_sent > 0 for result in answered} == {True}


async def test_the_end_of_a_session_frees_everything(
    reading_edge: Edge, reader: Path, resources: Callable[[], dict[str, set[str]]], back_to: BackTo
) -> None:
    settings = UeSettings(reading_edge.url, model="reader", models=(reader,), mode="remote")
    for session_number in range(3):
        before = resources() if session_number else {}
        async with UeSession(settings) as session:
            async for result in session.run(camera(50)):
                assert result.answered
                break
        if before:  # the edge's one worker is there to stay
            await back_to(before)
    assert reading_edge.outcomes["sessions_served"] == 3


async def test_the_edge_chooses_video_only_if_its_owner_allows_it(reader: Path) -> None:
    settings = EdgeSettings("127.0.0.1:0", workers=1, model=("reader",), models=(reader,), accept=("raw",))
    async with Edge(settings) as edge:
        with pytest.raises(NoCommonOperatingPoint):
            async with UeSession(UeSettings(edge.url, model="reader", models=(reader,), mode="remote")):
                pass
    settings = EdgeSettings("127.0.0.1:0", workers=1, model=("reader",), models=(reader,), accept=("video",))
    async with Edge(settings) as edge:
        async with UeSession(UeSettings(edge.url, model="reader", models=(reader,), mode="remote")) as session:
            assert session.point.is_video
        with pytest.raises(NoCommonOperatingPoint):
            async with UeSession(UeSettings(edge.url, model="reader", models=(reader,), mode="split")):
                pass


# Privacy: what leaves the socket


@pytest.mark.parametrize(("mode", "privacy", "leaves"), [("remote", "any", True), ("auto", "no-pictures", False)])
async def test_without_pictures_no_picture_leaves_the_socket(
    reading_edge: Edge,
    reader: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    privacy: str,
    leaves: bool,
) -> None:
    """Whatever the edge would like. With pictures allowed, the same test sees them."""
    offers: list[str] = []
    connect = reading_edge.connect

    async def note(request: ConnectRequest) -> str:
        offers.append(request.offer)
        return await connect(request)

    monkeypatch.setattr(reading_edge, "connect", note)
    link = "rtt=5"
    settings = UeSettings(
        reading_edge.url, model="reader", models=(reader,), mode=mode, privacy=privacy, link=link, budget=5.0
    )
    with watched_link() as seen:
        async with UeSession(settings) as session:
            answered = [result async for result in session.run(camera(20))]
            assert session.point.is_video == leaves
    assert answered
    assert len(seen) > 20
    assert any(map(is_srtp, seen)) == leaves
    assert ["m=video" in offer for offer in offers] == [leaves]
    assert ["profile=video" in offer for offer in offers] == [leaves]


@pytest.mark.parametrize("changes", [{"privacy": "no-pictures"}, {"mode": "split"}])
async def test_an_edge_that_answers_with_video_to_an_offer_without_is_refused(
    stub_edge: Any, changes: dict[str, Any]
) -> None:
    (remote,) = remote_points(Zoo(), model=points(Zoo())[0].card.name)
    stub_edge.choose = lambda offers: [remote.offer(offers[0].fps)]
    with pytest.raises(ProtocolError, match="was not offered"):
        async with UeSession(UeSettings(stub_edge.url, **changes)):
            pass
    assert "m=video" not in stub_edge.request.offer
