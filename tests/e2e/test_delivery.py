"""Devices without model files, and an operator who changes what an edge serves, through the command line."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from models.cache import CACHE_VARIABLE
from splitrtc_errors import UnknownModel, Unreachable

pytestmark = pytest.mark.e2e

SHORT = ("--source", "testsrc", "--fps", "10", "--seconds", "1")
COLD = (*SHORT, "--no-bundled")


def models_of(url: str) -> set[str]:
    """What the edge says that it serves."""
    with urllib.request.urlopen(url.replace("ws", "http", 1) + "/manifest", timeout=60) as response:
        return {model["information"]["name"] for model in json.load(response)["models"]}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """A function that lets what is started from now on have an empty cache."""

    def use() -> Path:
        folder = tmp_path / "device's cache"
        monkeypatch.setenv(CACHE_VARIABLE, str(folder))
        return folder

    return use


def test_a_device_without_any_model_file(
    start_edge: Any, run_ue: Any, own_cache: Callable[[], Path], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret\n", encoding="utf-8")
    token = ("--token-file", str(tmp_path / "token"))
    with start_edge("--self-signed", *token) as edge:
        cache = own_cache()
        trusted = (*token, "--fingerprint", edge.fingerprint)
        assert run_ue(edge.url, *COLD, *token, "--fingerprint", 64 * "0")[0] == Unreachable.exit_code
        assert not [path for path in cache.rglob("*") if path.is_file()]
        code, summary, errors = run_ue(edge.url, *COLD, *trusted)
        assert (code, summary["model"]) == (0, "ssdlite_mbv2_coco_300"), errors
        assert summary["frames_answered"] > 0
        heads = list(cache.rglob("*.onnx"))
        assert all(head.name.startswith("head-") for head in heads), "no tail, no whole model"
        assert min(head.stat().st_size for head in heads) < 400_000
        assert edge.terminate()[1]["sessions_served"] == 1


def test_two_devices_share_an_empty_cache(start_edge: Any, run_ue: Any, own_cache: Callable[[], Path]) -> None:
    with start_edge() as edge:
        own_cache()
        with ThreadPoolExecutor(2) as pool:
            runs = list(pool.map(lambda _: run_ue(edge.url, *COLD), range(2)))
        assert [code for code, _, _ in runs] == [0, 0], runs
        assert all(summary["frames_answered"] > 0 for _, summary, _ in runs)


def test_a_model_is_withdrawn_under_a_running_session_and_comes_back(
    start_edge: Any, start_ue: Any, run_ue: Any, until: Any, tiny_model: Path, tmp_path: Path
) -> None:
    folder, away, lines = tmp_path / "served", tmp_path / "away", tmp_path / "out.jsonl"
    folder.mkdir()

    def answered() -> int:
        return lines.read_text(encoding="utf-8").count('"ok"') if lines.exists() else 0

    with start_edge("--models", str(folder)) as edge:
        assert models_of(edge.url) == {"ssdlite_mbv2_coco_300"}
        shutil.copytree(tiny_model, folder / "tiny")
        until(lambda: "tiny" in models_of(edge.url))
        wanted = ("--model", "tiny", "--profile", "raw", "--no-bundled")
        with start_ue(edge.url, *wanted, "--source", "testsrc", "--sink", str(lines)) as ue:
            until(lambda: answered() > 0)
            (folder / "tiny").rename(away)
            until(lambda: "tiny" not in models_of(edge.url))
            before = answered()
            until(lambda: answered() > before + 5)
            code, _, errors = run_ue(edge.url, *SHORT, *wanted)
            assert code == UnknownModel.exit_code
            assert "does not deliver the head of tiny" in errors
            ue.terminate()
            assert json.loads(ue.communicate(timeout=60)[0])["frames_answered"] > 0
        (away / "card.json").write_text("{ this is no card", encoding="utf-8")
        away.rename(folder / "tiny")
        shutil.copytree(tiny_model, folder / "again")
        until(lambda: "tiny" in models_of(edge.url))
        assert run_ue(edge.url, *SHORT, *wanted)[0] == 0
        _, _, errors = edge.terminate()
        assert errors.count("is left out") == 1, errors
        assert "Traceback" not in errors
