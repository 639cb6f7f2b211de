"""``splitrtc doctor``: what of this machine works, and what to do about what does not."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.settings import DEFAULT_LISTEN
from signaling.addresses import parse_listen
from splitrtc_errors import ModelFileError, SourceError, SplitRtcError

__all__ = ["Finding", "examine"]

logger = logging.getLogger(__name__)

Verdict = Literal["ok", "note", "wrong"]

MIN_PYTHON = (3, 11)
LOOPBACK_DATAGRAMS = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``advice`` says what to do when the verdict is not ok.

    A ``note`` is something that only some uses need; ``wrong`` keeps splitrtc from working.
    """

    subject: str
    verdict: Verdict
    detail: str
    advice: str = ""


def examine(camera: str = "0", provider: str = "auto", listen: str = DEFAULT_LISTEN) -> Iterator[Finding]:
    """Look at everything, one finding after the other; nothing that is wrong stops the rest."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("Python", _python),
        ("runtime", lambda: _runtime(provider)),
        ("model files", _models),
        ("split", lambda: _split(provider)),
        ("edge port", lambda: _port(listen)),
        ("UDP on loopback", _udp),
        ("camera", lambda: _camera(camera)),
        ("display", _display),
    ]
    for subject, check in checks:
        try:
            yield check()
        except SplitRtcError as error:  # its message says what to do
            yield Finding(subject, "wrong", str(error))
        except Exception as error:
            logger.debug("looking at %s failed", subject, exc_info=True)
            yield Finding(subject, "wrong", repr(error), "not foreseen: please report it, with what --debug shows")


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MIN_PYTHON:
        return Finding("Python", "wrong", version, f"use Python {'.'.join(map(str, MIN_PYTHON))} or newer")
    return Finding("Python", "ok", version)


def _runtime(provider: str) -> Finding:
    from models.runtime import available_providers, runtime_version

    built_for = ", ".join(available_providers())
    detail = f"onnxruntime {runtime_version()}, built for {built_for}"
    if provider == "cuda" and "cuda" not in built_for:
        advice = "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'splitrtc[gpu]'"
        return Finding("runtime", "wrong", detail, advice)
    return Finding("runtime", "ok", detail)


def _models() -> Finding:
    from models import Zoo
    from models.zoo import DEFAULT_MODEL

    advice = "install splitrtc again"
    try:
        zoo = Zoo()
        here = [zoo.get(name) for name in zoo.names() if name == DEFAULT_MODEL or zoo.get(name).is_here]
        for card in here:
            card.verified_path()
    except ModelFileError as error:
        return Finding("model files", "wrong", str(error), advice)
    names = ", ".join(card.name for card in here)
    return Finding(
        "model files", "ok", f"{len(here)} of {len(zoo.names())} in the zoo are here, digests right: {names}"
    )


def _split(provider: str) -> Finding:
    """The default model cut, loaded and run: says which provider is truly in use, and how fast."""
    from models import PartitionStore, Zoo, load_submodel

    card = Zoo().get()
    partition = PartitionStore().get(card, card.default_partition.tensors)
    parts = [load_submodel(path, provider) for path in (partition.head_path, partition.tail_path)]
    milliseconds = []
    for part in parts:
        part.warm_up()
        started = time.perf_counter()
        part.warm_up(runs=5)
        milliseconds.append((time.perf_counter() - started) / 5 * 1e3)
    head, tail = milliseconds
    detail = f"{card.name} on {parts[1].provider}: head {head:.1f} ms, tail {tail:.1f} ms"
    if head > 1e3 / 30:
        return Finding("split", "note", detail, "too slow for 30 frames per second here: use --fps 10")
    return Finding("split", "ok", detail)


def _port(listen: str) -> Finding:
    host, port = parse_listen(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((host, port))
    except OSError as error:
        advice = "give --listen HOST:PORT with an address of this machine and a port above 1023"
        if error.errno == errno.EADDRINUSE:
            advice = "another edge may be running: stop it, or give this one --listen HOST:PORT"
        return Finding("edge port", "note", f"{listen}: {error.strerror or error}", advice)
    return Finding("edge port", "ok", f"{listen} is free")


def _udp() -> Finding:
    """Datagrams of the size that units have, from one socket to another."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(1.0)
        try:
            for _ in range(LOOPBACK_DATAGRAMS):
                sender.sendto(bytes(1200), receiver.getsockname())
                receiver.recv(2048)
        except OSError as error:
            advice = "a firewall drops local UDP: let 127.0.0.1 talk to itself"
            return Finding("UDP on loopback", "wrong", str(error), advice)
    return Finding("UDP on loopback", "ok", f"{LOOPBACK_DATAGRAMS} datagrams of 1200 bytes came through")


def _camera(camera: str) -> Finding:
    from pipeline.sources import open_source

    devices = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
    try:
        with contextlib.closing(open_source(camera)) as source:
            source.open()
            picture = source.read()
            if picture is None:
                raise SourceError(f"{source.name} has no picture")
    except SplitRtcError as error:
        return Finding("camera", "note", f"{error} (video devices: {devices})", "use --source with a file, or clip")
    height, width, _ = picture.image.shape
    return Finding("camera", "ok", f"{camera}: {width}x{height}")


def _display() -> Finding:
    name = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not name:
        advice = "for --sink window set DISPLAY or use ssh -X; --sink out.mp4 needs none"
        return Finding("display", "note", "none", advice)
    return Finding("display", "ok", name or sys.platform)
