"""splitrtc: split inference over WebRTC. This module is what your program imports.

The device::

    async with splitrtc.connect("ws://gpu-box:8787", token="...") as session:
        async for result in session.run(0):
            print(result.detections)

The edge::

    async with splitrtc.serve("0.0.0.0:8787", token="...") as edge:
        await edge.wait()

Both run inside your own event loop; leaving the context, or cancelling, leaves no task, thread, socket or file behind.
Names are loaded when they are first used. The packages behind this one (``rtc``, ``models``, ``signaling``,
``pipeline``) are public too, but their short names may collide with yours.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Unpack

if TYPE_CHECKING:
    import splitrtc_errors as errors
    from models import Detections, to_supervision
    from pipeline.edge import Edge
    from pipeline.events import ModeChanged
    from pipeline.frames import Frame
    from pipeline.outcome import FrameResult, Timings
    from pipeline.run import Run
    from pipeline.settings import EdgeOptions, EdgeSettings, UeOptions, UeSettings
    from pipeline.sinks import Sink, StreamInfo
    from pipeline.sources import Picture, Source
    from pipeline.ue import UeSession
    from splitrtc_errors import SplitRtcError

_MODULE_OF = {
    "Detections": "models",
    "Edge": "pipeline.edge",
    "EdgeSettings": "pipeline.settings",
    "Frame": "pipeline.frames",
    "FrameResult": "pipeline.outcome",
    "ModeChanged": "pipeline.events",
    "Picture": "pipeline.sources",
    "Run": "pipeline.run",
    "Sink": "pipeline.sinks",
    "Source": "pipeline.sources",
    "SplitRtcError": "splitrtc_errors",
    "StreamInfo": "pipeline.sinks",
    "Timings": "pipeline.outcome",
    "UeSession": "pipeline.ue",
    "UeSettings": "pipeline.settings",
    "errors": "splitrtc_errors",
    "to_supervision": "models",
}

__all__ = [
    "Detections",
    "Edge",
    "EdgeSettings",
    "Frame",
    "FrameResult",
    "ModeChanged",
    "Picture",
    "Run",
    "Sink",
    "Source",
    "SplitRtcError",
    "StreamInfo",
    "Timings",
    "UeSession",
    "UeSettings",
    "connect",
    "errors",
    "serve",
    "to_supervision",
]


def connect(url: str, **settings: Unpack[UeOptions]) -> UeSession:
    """A session with the edge at ``url`` (``ws://``, ``wss://`` or ``HOST:PORT``), to be used as ``async with``.

    ``settings`` are the fields of `UeSettings`: model, partition, profile, fps, token, ca, fingerprint, bind, ...
    A session ends with ConnectionLost when the edge is lost, unless ``mode="auto"`` or ``reconnect=True``.
    Raises BadArgument for one that is not what is expected; connecting happens on entering.
    """
    from pipeline.settings import UeSettings
    from pipeline.ue import UeSession

    return UeSession(UeSettings(url, **settings))


def serve(listen: str = "127.0.0.1:8787", **settings: Unpack[EdgeOptions]) -> Edge:
    """An edge at ``HOST:PORT``, to be used as ``async with``; ``settings`` are the fields of `EdgeSettings`."""
    from pipeline.edge import Edge
    from pipeline.settings import EdgeSettings

    return Edge(EdgeSettings(listen, **settings))


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("splitrtc_errors")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if __name__ == "__main__":
    from pipeline.cli import main

    main()
