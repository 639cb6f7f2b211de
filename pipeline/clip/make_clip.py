"""Make the bundled clip again: ``python -m pipeline.clip.make_clip [FILE]``.

Four photographs from the scikit-image wheel, each in the public domain or CC0 (SOURCES.md names them), are laid out
as two rows of one 1200x960 picture. A virtual camera goes once round it in ten seconds, nearer and farther, on a
closed path, so that the clip can run in a loop. It needs scikit-image, which nothing else in the project does::

    pip install 'splitrtc[clip]'
"""

from __future__ import annotations

import importlib
import math
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from pipeline.clip import CLIP

WIDTH, HEIGHT, FPS, FRAMES = 640, 480, 30, 300
CRF = 24
SUPERSAMPLING = 2  # every frame is drawn this much larger and averaged down: still edges, no flicker to spend bits on

Picture = npt.NDArray[np.uint8]


def canvas() -> Picture:
    """Lay the photographs out: person and cup above, cat and person below. Returns RGB, (960, 1200, 3)."""
    data: Any = importlib.import_module("skimage.data")  # no types, and usually not installed

    def tile(photograph: npt.NDArray[Any], width: int, height: int = 480) -> Picture:
        if photograph.ndim == 2:
            photograph = cv2.cvtColor(photograph, cv2.COLOR_GRAY2RGB)
        scaled = cv2.resize(photograph, (width, height), interpolation=cv2.INTER_LANCZOS4)
        return np.asarray(scaled, np.uint8)

    above = np.hstack([tile(data.astronaut(), 480), tile(data.coffee(), 720)])
    below = np.hstack([tile(data.chelsea(), 720), tile(data.camera(), 480)])
    return np.vstack([above, below])


def view(index: int) -> tuple[float, float, float]:
    """Where the camera looks in frame ``index``: centre x, centre y and width on the canvas, in its pixels."""
    angle = 2 * math.pi * (index / FRAMES) - 0.75 * math.pi  # start at the upper left, go clockwise
    width = 740 - 60 * math.cos(4 * angle)  # widest at the four corners, so that it stays inside
    return 600 + 245 * math.cos(angle), 480 + 215 * math.sin(angle), width


def frame(picture: Picture, index: int) -> Picture:
    """Draw frame ``index`` of the clip, RGB, (480, 640, 3)."""
    x, y, width = view(index)
    scale = width / WIDTH / SUPERSAMPLING
    columns, rows = WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING
    # From the enlarged frame's pixel centres to the canvas's.
    matrix = np.array(
        [
            [scale, 0, x - scale * columns / 2 + scale / 2 - 0.5],
            [0, scale, y - scale * rows / 2 + scale / 2 - 0.5],
        ]
    )
    large = cv2.warpAffine(
        picture,
        matrix,
        (columns, rows),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(cv2.resize(large, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def main(path: Path = CLIP) -> None:
    """Write the clip to ``path``."""
    picture = canvas()
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        # One thread: the same bytes each time.
        stream = container.add_stream(
            "libx264", rate=FPS, options={"crf": str(CRF), "preset": "veryslow", "g": "60", "threads": "1"}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for index in range(FRAMES):
            image = av.VideoFrame.from_ndarray(frame(picture, index), format="rgb24")
            image.pts = index
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:2]))
