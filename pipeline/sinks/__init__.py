"""Where results go: a window, a video file, JSON lines, a function of the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.outcome import FrameResult
from pipeline.sinks.base import Sink, SinkRunner, StreamInfo
from splitrtc_errors import BadArgument

if TYPE_CHECKING:
    from pipeline.sinks.records import CallbackSink, JsonLinesSink, NullSink
    from pipeline.sinks.video import VideoSink
    from pipeline.sinks.window import WindowSink

__all__ = [
    "CallbackSink",
    "JsonLinesSink",
    "NullSink",
    "Sink",
    "SinkRunner",
    "StreamInfo",
    "VideoSink",
    "WindowSink",
    "open_sink",
]

_HOMES = {
    "CallbackSink": "records",
    "JsonLinesSink": "records",
    "NullSink": "records",
    "VideoSink": "video",
    "WindowSink": "window",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def open_sink(spec: str | Path | Sink | Callable[[FrameResult], object]) -> Sink:
    """The sink that ``spec`` names; nothing is opened yet.

    ``spec``: ``window``; a file ``*.mp4``, ``*.mkv`` or ``*.mov`` for an annotated video; ``*.jsonl`` for JSON lines;
    ``-`` for JSON lines on standard output; ``null``; a function, which is called with every `FrameResult`; or a sink
    of your own, which is given back.

    Raises BadArgument when it is nothing of these.
    """
    from pipeline.sinks.records import CallbackSink, JsonLinesSink, NullSink
    from pipeline.sinks.video import VIDEO_SUFFIXES, VideoSink
    from pipeline.sinks.window import WindowSink

    if isinstance(spec, Sink):
        return spec
    if callable(spec):
        return CallbackSink(spec)
    words: dict[str, Callable[[], Sink]] = {"window": WindowSink, "-": JsonLinesSink, "null": NullSink}
    if str(spec) in words:
        return words[str(spec)]()
    suffix = Path(spec).suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return VideoSink(spec)
    if suffix == ".jsonl":
        return JsonLinesSink(spec)
    raise BadArgument(f"no sink {spec}; expected window, a file {', '.join(VIDEO_SUFFIXES)} or .jsonl, - or null")
