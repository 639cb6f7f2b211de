from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from models import Detector, Preprocessor, Zoo, load_submodel
from pipeline.edge import Edge
from pipeline.offers import points
from pipeline.outcome import FrameResult
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession
from rtc import OUTPUT_NONE, Peer, Status
from rtc.transport import gather_only_on
from signaling import (
    Bye,
    ConnectRequest,
    ParameterSetReject,
    PeerFailure,
    SignalingClient,
    SignalingServer,
    attributes_of,
    offers_of,
)
from splitrtc_errors import BadArgument, ConnectionLost, NegotiationTimeout, ProtocolError, SourceError, Unreachable

WAIT = 20.0
MODEL = "ssdlite_mbv2_coco_300"

Until = Any


def ue(url: str, **settings: Any) -> UeSession:
    """A session whose results are in time on any machine, unless told otherwise."""
    return UeSession(UeSettings(url, **{"budget": 10.0, "timeout": WAIT, **settings}))


async def take(run: Any, count: int = 1) -> list[FrameResult]:
    async with asyncio.timeout(WAIT):
        return [await anext(run) for _ in range(count)]


# What a session computes.


def whole_model(image: np.ndarray, threshold: float) -> Any:
    """What the model finds when it is not cut."""
    card = Zoo().get(MODEL)
    preprocessor = Preprocessor(card)
    found = Detector(card).decode(load_submodel(card.path, "cpu").run([preprocessor.prepare(image)])).at_least(threshold)
    return replace(found, xyxy=preprocessor.undo(found.xyxy, (image.shape[1], image.shape[0])))


async def assert_split_equals_whole(edge: Edge, images: list[np.ndarray], make_feed: Any) -> None:
    feed, detections = make_feed(), 0
    # At 2 frames per second the edge waits so long for the rest of a frame that none is answered incomplete.
    async with ue(edge.url, profile="raw-zstd", threshold=0.3, fps=None) as session:
        run = session.run(feed)
        for image in images:
            feed.give(image)
            (result,) = await take(run)
            assert (result.status, result.share_received) == ("ok", 1.0)
            assert result.detections is not None
            expected = whole_model(image, 0.3)
            assert result.detections.classes.tolist() == expected.classes.tolist()
            np.testing.assert_allclose(result.detections.scores, expected.scores, atol=1e-4)
            np.testing.assert_allclose(result.detections.xyxy, expected.xyxy, atol=1e-4 * max(image.shape))
            detections += len(expected)
    assert detections >= len(images)


async def test_split_equals_whole_on_the_bundled_clip(edge: Edge, pictures: list[np.ndarray], make_feed: Any) -> None:
    await assert_split_equals_whole(edge, pictures, make_feed)


async def test_split_equals_whole_on_photos(edge: Edge, shared_dir: Path, make_feed: Any) -> None:
    paths = sorted((shared_dir / "data" / "images").glob("*.jpg"))[::8][:16]
    images = [image for path in paths if (image := cv2.imread(str(path))) is not None]
    assert len(images) == 16
    await assert_split_equals_whole(edge, images, make_feed)
