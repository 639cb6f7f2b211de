"""What a device offers: what it has, else what its edge delivers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.cache import CACHE_VARIABLE
from pipeline.device import DevicePart
from pipeline.edge import Edge
from pipeline.parts import DeviceParts
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession
from splitrtc_errors import ConnectionLost, UnknownModel, Unreachable

BUNDLED = "ssdlite_mbv2_coco_300"
WAIT = 20.0
ABSENT = "127.0.0.1:9"


@pytest.fixture
async def edge(tiny_model: Path) -> AsyncIterator[Edge]:
    """One that serves "tiny" alone, with heads in fp16 too."""
    path = tiny_model / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    card["partitions"][0]["variants"] = ["fp16"]
    path.write_text(json.dumps(card), encoding="utf-8")
    async with Edge(EdgeSettings("127.0.0.1:0", models=(tiny_model,), model=("tiny",), workers=1)) as running:
        yield running


class Device:
    """A device's parts, with the thread that they want."""

    def __init__(self, url: str, **settings: Any) -> None:
        self._executor = ThreadPoolExecutor(1)
        self.parts = DeviceParts(UeSettings(url, **settings), self._executor)

    async def __aenter__(self) -> DeviceParts:
        return self.parts

    async def __aexit__(self, *_: object) -> None:
        await self.parts.close()
        self._executor.shutdown()


@pytest.fixture
def own_cache(edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "device"))


async def test_what_is_here_comes_first(edge: Edge) -> None:
    async with Device(edge.url) as parts:
        offered = await parts.offered(edge.url)
        assert {point.card.name for point in offered} == {BUNDLED}
        assert await parts.offered(edge.url) is offered
        assert await parts.turn_to_edge(edge.url), "which takes nothing of that"
        assert {point.card.name for point in await parts.offered(edge.url)} == {"tiny"}
        assert not await parts.turn_to_edge(edge.url), "there is nothing else"


@pytest.mark.usefixtures("own_cache")
async def test_a_session_with_an_edge_that_has_other_models(edge: Edge) -> None:
    async with UeSession(UeSettings(edge.url, profile="raw")) as session:
        assert session.point.card.name == "tiny"


@pytest.mark.usefixtures("own_cache")
async def test_what_is_not_here_is_delivered_and_becomes_better(edge: Edge, until: Any) -> None:
    async with Device(edge.url, bundled=False, profile="raw") as parts:
        offered = await parts.offered(edge.url)
        smallest = offered[0].variant
        parts.preload(offered[0])
        device = await parts.get(offered[0].offer(30.0))
        assert device.point == offered[0]
        assert isinstance(device, DevicePart)
        assert device.partition.tensors == ("early",)
        if smallest != "fp32":
            await until(lambda: parts.has_better)
        better = await parts.offered(edge.url)
        parts.preload(better[0])
        device = await parts.get(better[0].offer(30.0))
        assert isinstance(device, DevicePart)
        assert device.partition.variant == "fp32"
        with pytest.raises(ConnectionLost, match="another connection"):
            await parts.get(replace(better[0], variant="int8").offer(30.0))
    async with Device(edge.url, bundled=False, profile="raw") as parts:
        assert (await parts.offered(edge.url))[0].variant == "fp32", f"not {smallest}, as it is here now"


async def test_nothing_is_delivered_when_told_so(edge: Edge) -> None:
    async with Device(edge.url, bundled=False, deliver=False) as parts:
        with pytest.raises(UnknownModel):
            await parts.offered(edge.url)
        assert not await parts.turn_to_edge(edge.url)


async def test_an_edge_that_is_not_there_is_told() -> None:
    async with Device(ABSENT, bundled=False) as parts:
        with pytest.raises(Unreachable):
            await parts.offered(ABSENT)
    async with Device(ABSENT) as parts:
        before = await parts.offered(ABSENT)
        assert not await parts.turn_to_edge(ABSENT)
        assert await parts.offered(ABSENT) == before
