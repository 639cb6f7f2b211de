from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models import PartitionStore, Zoo, load_submodel
from models.cache import CACHE_VARIABLE
from models.graph import Model, costs_of
from models.probe import PROBE_MACS, probe_model
from pipeline import capabilities as module
from pipeline.appraisal import Appraisal
from pipeline.capabilities import capabilities, probe, run_ms
from pipeline.measured import MAX_AGE, remembered
from pipeline.offers import points


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return tmp_path / "measured"


class Slow:
    """A model of which each run takes as long as told, on a clock of its own."""

    def __init__(self, *seconds: float) -> None:
        self.seconds: Iterator[float] = iter((*seconds, *(1_000 * seconds[-1:])))
        self.now = 0.0
        self.runs = 0

    def warm_up(self, runs: int) -> None:
        self.runs += runs
        self.now += next(self.seconds)

    def clock(self) -> float:
        return self.now


def taken(*seconds: float, runs: int = 5, limit: float = 1.0) -> tuple[float, float, int]:
    slow: Any = Slow(*seconds)
    return run_ms(slow, runs, limit, slow.clock), slow.now, slow.runs


def test_a_run_takes_the_median_of_several_but_not_the_first() -> None:
    assert taken(0.4, 0.02, 0.01, 0.03)[0] == pytest.approx(30.0)
    assert taken(0.1, 0.01)[2] == 6


def test_a_slow_machine_is_not_measured_for_long() -> None:
    assert taken(0.3, limit=1.0)[2] == 4
    assert taken(0.7, limit=1.0)[2] == 1
    assert taken(60.0, limit=1.0)[2] == 1


def test_the_probe_has_as_many_operations_as_it_is_said_to_have(tmp_path: Path) -> None:
    path = tmp_path / "probe.onnx"
    path.write_bytes(probe_model())
    assert costs_of(Model.load(path)).total_macs == PROBE_MACS
    (shape,) = (spec.shape for spec in load_submodel(path, provider="cpu").inputs)
    assert shape == (1, 32, 38, 38)


def test_a_machine_is_probed_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = probe()
    assert 1e7 < first < 1e14
    monkeypatch.setattr(module, "_measure", lambda: {"flops": 1.0})
    assert probe() == first
    (file,) = cache.iterdir()
    file.unlink()
    assert probe() == 1.0


def test_what_a_machine_can_do() -> None:
    found = capabilities("cpu")
    assert found.providers == ("cpu",)
    assert found.runtime is not None
    assert found.runtime.startswith("ONNX Runtime 1.")
    assert found.cores is not None
    assert found.memory is None or found.memory > 10**6
    assert "q4-zstd" in found.profiles


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"key": 1}', b'{"key": "x", "values": {"ms": 1}}', b"\xff", b"[" * 5000],
)
def test_a_spoilt_cache_is_measured_over(cache: Path, content: bytes) -> None:
    assert remembered("x", lambda: {"ms": 1.0}) == {"ms": 1.0}
    (file,) = cache.iterdir()
    file.write_bytes(content)
    assert remembered("x", lambda: {"ms": 2.0}) == {"ms": 2.0}
    assert remembered("x", lambda: {"ms": 3.0}) == {"ms": 2.0}


@pytest.mark.parametrize("bad", ["fast", True, None, [1], -1.0, math.inf, math.nan])
def test_values_that_are_no_numbers_are_measured_over(cache: Path, bad: Any) -> None:
    remembered("x", lambda: {"ms": 1.0})
    (file,) = cache.iterdir()
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"values": {"ms": bad}}))
    assert remembered("x", lambda: {"ms": 2.0}) == {"ms": 2.0}


def test_what_is_old_or_of_another_thing_is_measured_again(cache: Path) -> None:
    remembered("x", lambda: {"ms": 1.0})
    assert remembered("y", lambda: {"ms": 2.0}) == {"ms": 2.0}
    for file in cache.iterdir():
        then = file.stat().st_mtime - MAX_AGE - 10
        os.utime(file, (then, then))
    assert remembered("x", lambda: {"ms": 3.0}) == {"ms": 3.0}


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    monkeypatch.setenv(CACHE_VARIABLE, str(blocked))
    assert remembered("x", lambda: {"ms": 1.0}) == {"ms": 1.0}


def test_an_appraisal_that_is_stopped_measures_no_more() -> None:
    appraisal = Appraisal(PartitionStore(), "cpu", 1)
    appraisal.stop()
    found = points(Zoo())
    appraisal.measure(found)
    assert appraisal.capabilities is not None
    assert appraisal.model(found[0].card.digest) is None
    assert appraisal.cut(found[0].partition) is None


def test_what_cannot_be_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    store = PartitionStore()
    found = points(Zoo())[:1]
    appraisal = Appraisal(store, "no such provider", 1)
    appraisal.measure(found)
    assert appraisal.cut(found[0].partition) is None
