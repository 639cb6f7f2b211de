"""Where pictures come from: files, cameras, network streams, folders, a test pattern, the user's own program."""

from __future__ import annotations

import importlib
import re
from collections.abc import AsyncIterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.sources.base import Picture, Source
from splitrtc_errors import BadArgument, SourceError

if TYPE_CHECKING:
    from models import TensorSpec
    from pipeline.sources.camera import Camera
    from pipeline.sources.iterator import AsyncIteratorSource
    from pipeline.sources.stills import ImageFolder, TestPattern
    from pipeline.sources.video import VideoFile, VideoUrl

__all__ = [
    "AsyncIteratorSource",
    "Camera",
    "ImageFolder",
    "Picture",
    "Source",
    "TestPattern",
    "VideoFile",
    "VideoUrl",
    "open_source",
]

_HOMES = {
    "AsyncIteratorSource": "iterator",
    "Camera": "camera",
    "ImageFolder": "stills",
    "TestPattern": "stills",
    "VideoFile": "video",
    "VideoUrl": "video",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def open_source(
    spec: str | int | Path | Source | AsyncIterable[Any],
    *,
    fps: float | None = None,
    tensor: TensorSpec | None = None,
) -> Source:
    """The source that ``spec`` names; nothing is opened yet.

    ``spec``: a camera's index or device path; a video file; a folder of images; an ``rtsp://`` or ``http://`` URL
    (or with s); ``testsrc``, the test pattern; ``clip``, the bundled video; an async iterable of BGR arrays; or a
    source of your own, which is given back. A file named like one of the words is reached as ``./clip``.
    ``fps`` is the rate of folders, of the test pattern and of iterators, which have none of their own; of faster
    cameras and videos, pictures are left out. ``tensor`` is the input of a model that takes no pictures: then only an
    async iterable of such arrays, or a source of your own, will do.

    Raises BadArgument when it is nothing of these, SourceError when there is no such file.
    """
    from pipeline.clip import CLIP
    from pipeline.sources.camera import Camera
    from pipeline.sources.iterator import AsyncIteratorSource
    from pipeline.sources.stills import ImageFolder, TestPattern
    from pipeline.sources.video import URL_SCHEMES, VideoFile, VideoUrl

    if fps is not None and not 0 < fps <= 1000:
        raise BadArgument(f"fps must be above 0 and at most 1000, not {fps}")
    if isinstance(spec, Source):
        return spec
    if isinstance(spec, AsyncIterable):
        return AsyncIteratorSource(spec, fps=fps, tensor=tensor)
    if tensor is not None:
        raise BadArgument(f"the model takes no pictures, but {tensor}: give an async iterator of such arrays")
    if isinstance(spec, int) and not isinstance(spec, bool):
        return Camera(spec, fps=fps)
    if not isinstance(spec, (str, Path)) or not str(spec):
        raise BadArgument(f"a source is a camera's index, a path, a URL or an async iterator, not {spec!r}")
    text = str(spec)
    if text == "testsrc":
        return TestPattern(fps=fps)
    if text == "clip":
        return VideoFile(CLIP, fps=fps, name=text)
    if re.fullmatch(r"[0-9]{1,4}", text):
        return Camera(int(text), fps=fps)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
    if scheme:
        if scheme[1].lower() not in URL_SCHEMES:
            raise BadArgument(f"cannot read {scheme[1]}:// URLs; expected {', '.join(f'{s}://' for s in URL_SCHEMES)}")
        return VideoUrl(text, fps=fps)
    path = Path(text)
    if path.is_dir():
        return ImageFolder(path, fps=fps)
    if path.is_char_device() or re.fullmatch(r"/dev/video[0-9]{1,4}", text):  # one that is not there may come
        return Camera(path, fps=fps)
    if not path.exists():
        raise SourceError(
            f"no file {text}; a source is a video file, a folder of images, a camera (0, /dev/video0), "
            "an rtsp:// or http:// URL, testsrc or clip"
        )
    return VideoFile(path, fps=fps)
