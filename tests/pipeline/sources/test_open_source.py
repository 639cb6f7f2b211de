from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pipeline.sources as sources
from pipeline.sources import Camera, ImageFolder, TestPattern, VideoFile, VideoUrl, open_source
from splitrtc_errors import BadArgument, SourceError


@pytest.mark.parametrize(
    ("spec", "kind", "name"),
    [
        (0, Camera, "camera 0"),
        ("12", Camera, "camera 12"),
        (os.devnull, Camera, f"camera {os.devnull}"),  # stands for any device file
        (Path(os.devnull), Camera, f"camera {os.devnull}"),
        ("testsrc", TestPattern, "testsrc"),
        ("clip", VideoFile, "clip"),
        ("rtsp://user:secret@camera.local:554/main?key=secret", VideoUrl, "rtsp://camera.local:554/main"),
        ("HTTPS://host/a.mp4", VideoUrl, "https://host/a.mp4"),
    ],
)
def test_what_a_word_means(spec: str | int | Path, kind: type, name: str) -> None:
    source = open_source(spec)
    assert type(source) is kind
    assert source.name == name


def test_paths_are_told_apart_by_what_is_there(tmp_path: Path) -> None:
    video = tmp_path / "testsrc"
    video.touch()
    assert type(open_source(video)) is VideoFile
    assert type(open_source(str(video))) is VideoFile
    assert type(open_source(tmp_path)) is ImageFolder


def test_a_source_of_ones_own_is_used_as_it_is() -> None:
    mine = TestPattern()
    assert open_source(mine) is mine


@pytest.mark.parametrize("spec", ["clip", "testsrc", 0, ".", "http://host/"])
def test_the_rate_is_passed_on(spec: str | int) -> None:
    assert open_source(spec, fps=12.5).fps == 12.5


def test_a_missing_file_says_what_could_be_given() -> None:
    with pytest.raises(SourceError, match=r"no file steet\.mp4; a source is .*rtsp://.*testsrc or clip"):
        open_source("steet.mp4")


@pytest.mark.parametrize("spec", ["", None, True, 1.5, "ftp://host/a.mp4", "file:///etc/passwd", "http://[::1/a.mp4"])
def test_what_is_no_source_is_refused(spec: Any) -> None:
    with pytest.raises(BadArgument):
        open_source(spec)


@pytest.mark.parametrize("fps", [0.0, -1.0, 1001.0, float("nan"), float("inf")])
def test_an_impossible_rate_is_refused(fps: float) -> None:
    with pytest.raises(BadArgument, match="fps"):
        open_source("testsrc", fps=fps)


def test_every_public_name_is_there() -> None:
    for name in sources.__all__:
        assert getattr(sources, name).__name__ == name
    with pytest.raises(AttributeError, match="Nonsense"):
        sources.Nonsense  # noqa: B018


def test_naming_a_source_loads_no_video_library() -> None:
    code = "import sys, pipeline.sources as s; s.open_source('clip'); assert not {'av', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
