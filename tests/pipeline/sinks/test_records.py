from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.outcome import FrameResult
from pipeline.sinks import CallbackSink, JsonLinesSink, NullSink, StreamInfo
from splitrtc_errors import SinkError

INFO = StreamInfo("test", 30.0)


def test_each_result_is_a_line_of_json_that_can_be_read_at_once(
    make_result: Callable[..., FrameResult], tmp_path: Path
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old\n")
    sink = JsonLinesSink(path)
    sink.open(INFO)
    results = [make_result(0), make_result(1, answered=False)]
    for number, result in enumerate(results, 1):
        sink.write(result)
        lines = path.read_text().splitlines()
        assert len(lines) == number
        assert json.loads(lines[-1]) == result.to_json()
    sink.close()
    sink.close()


def test_standard_output_stays_open(
    make_result: Callable[..., FrameResult], capsys: pytest.CaptureFixture[str]
) -> None:
    sink = JsonLinesSink()
    sink.open(INFO)
    sink.write(make_result(4))
    sink.close()
    print("more")
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first)["index"] == 4
    assert second == "more"


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "gone" / "out.jsonl")
    with pytest.raises(SinkError, match=r"cannot write .*out\.jsonl: No such file"):
        sink.open(INFO)
    sink.close()


def test_a_reader_that_goes_away_ends_it(
    make_result: Callable[..., FrameResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        sink = JsonLinesSink()
        sink.open(INFO)
        os.close(reading)
        with pytest.raises(SinkError, match="nobody reads standard output any more"):
            sink.write(make_result())
        sink.close()
        with pytest.raises(BrokenPipeError):
            stream.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error(make_result: Callable[..., FrameResult]) -> None:
    sink = JsonLinesSink("/dev/full")
    sink.open(INFO)
    with pytest.raises(SinkError, match="No space left"):
        sink.write(make_result())
    sink.close()


def test_a_function_gets_the_result_itself(make_result: Callable[..., FrameResult]) -> None:
    got: list[FrameResult] = []
    sink = CallbackSink(got.append)
    result = make_result()
    sink.open(INFO)
    sink.write(result)
    sink.close()
    assert got == [result]


def test_null_takes_everything(make_result: Callable[..., FrameResult]) -> None:
    sink = NullSink()
    sink.open(INFO)
    sink.write(make_result())
    sink.close()


def test_a_standard_output_that_the_caller_closed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    sink = JsonLinesSink()
    with pytest.raises(SinkError, match="standard output: it is closed"):
        sink.open(INFO)
    sink.close()
