from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pipeline.sinks as sinks
from pipeline.sinks import CallbackSink, JsonLinesSink, NullSink, VideoSink, WindowSink, open_sink
from splitrtc_errors import BadArgument


@pytest.mark.parametrize(
    ("spec", "kind", "name"),
    [
        ("window", WindowSink, "window"),
        ("-", JsonLinesSink, "standard output"),
        ("null", NullSink, "null"),
        ("out.mp4", VideoSink, "out.mp4"),
        ("out.MKV", VideoSink, "out.MKV"),
        (Path("a/out.mov"), VideoSink, "a/out.mov"),
        ("a/out.jsonl", JsonLinesSink, "a/out.jsonl"),
        (print, CallbackSink, "callback print"),
    ],
)
def test_what_a_word_means(spec: str | Path, kind: type, name: str) -> None:
    sink = open_sink(spec)
    assert type(sink) is kind
    assert sink.name == name


def test_a_sink_of_ones_own_is_used_as_it_is() -> None:
    mine = NullSink()
    assert open_sink(mine) is mine


@pytest.mark.parametrize("spec", ["", "out.avi", "screen", "out.json"])
def test_what_is_no_sink_is_refused(spec: str) -> None:
    with pytest.raises(BadArgument, match="expected window"):
        open_sink(spec)


def test_every_public_name_is_there() -> None:
    for name in sinks.__all__:
        assert getattr(sinks, name).__name__ == name
    with pytest.raises(AttributeError, match="Nonsense"):
        sinks.Nonsense  # noqa: B018


def test_naming_a_sink_loads_no_video_library() -> None:
    code = "import sys, pipeline.sinks as s; s.open_sink('a.mp4'); assert not {'av', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
