from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import run
from pipeline.edge import Edge
from pipeline.settings import EdgeSettings
from signaling import manifest_bytes
from tests.signaling.manifests import MANIFEST

NO_COMMON, BAD_ARGUMENT, PROTOCOL = 15, 2, 11


@pytest.fixture
def told(tmp_path: Path) -> str:
    path = tmp_path / "edge.json"
    (entry,) = MANIFEST.models
    path.write_bytes(manifest_bytes(replace(MANIFEST, models=(entry,))))
    return str(path)


def decided(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = run(["decide", "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def test_each_candidate_is_explained(told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, value = decided(capsys, "--manifest", told, "--fps", "5", "--privacy", "no-pictures", "--mode", "split")
    assert code == 0
    assert value["chosen"]["name"] == "early"
    assert len(value["candidates"]) == 6
    reasons = {one.get("name"): one["why_not"] for one in value["candidates"]}
    assert "it would send the picture" in reasons["input"]
    assert "mode local is not wanted" in reasons[None]


def test_the_device_and_the_link_count(told: str, capsys: pytest.CaptureFixture[str]) -> None:
    def parts(*arguments: str) -> Any:
        return decided(capsys, "--manifest", told, "--mode", "split", "--fps", "1", *arguments)[1]["chosen"][
            "latency_ms"
        ]

    fast, slow = parts(), parts("--device-speed", "0.5", "--link", "rtt=50,rate=1M")
    assert slow["head"] == pytest.approx(2 * fast["head"], abs=0.01)
    assert slow["link"] > fast["link"] + 30


def test_people_get_a_table(told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["decide", "--manifest", told, "--fps", "5"]) == 0
    out = capsys.readouterr().out
    assert "why not" in out
    assert "early" in out


def test_nothing_to_choose_is_said_with_an_exit_code(told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["decide", "--manifest", told, "--min-accuracy", "99"]) == NO_COMMON
    assert "nothing can be chosen" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], BAD_ARGUMENT),
        (["--manifest", "nowhere.json"], BAD_ARGUMENT),
        (["--manifest", "{told}", "ws://127.0.0.1:1"], BAD_ARGUMENT),
        (["--manifest", "{told}", "--link", "rtt=20"], BAD_ARGUMENT),
        (["--manifest", __file__], PROTOCOL),
    ],
)
def test_what_is_wrong_has_its_exit_code(told: str, arguments: list[str], code: int) -> None:
    assert run(["decide", *(argument.format(told=told) for argument in arguments)]) == code


async def test_an_edge_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    async with Edge(EdgeSettings("127.0.0.1:0", token="token-of-the-tests")) as edge:
        ask = ["decide", "--json", edge.url, "--fps", "5", "--mode", "split"]
        assert await asyncio.to_thread(run, ask) == 13
        capsys.readouterr()
        assert await asyncio.to_thread(run, [*ask, "--token", "token-of-the-tests"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["chosen"]["model_name"] == "ssdlite_mbv2_coco_300"
