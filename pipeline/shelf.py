"""The files that may leave an edge: cards, heads, calibrations and, where the card says so, whole models.

Each is known by its digest. They are made, and compressed where that pays, once, in a thread, and kept in the cache.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from models import bytes_digest, digest_hex, file_digest
from models.cache import cache_limit, default_cache_dir, trim
from models.files import replace_file
from signaling.files import ServedFile
from splitrtc_errors import SplitRtcError, UserError

if TYPE_CHECKING:
    from models import ModelCard, PartitionCard, PartitionStore, TensorSpec
    from pipeline.offers import OperatingPoint

__all__ = ["Shelf"]

PAYS = 0.95
"""A compressed form is served when it has this share of the file's bytes, or less."""
MIN_BYTES = 512
MAX_BYTES = 2**28
"""Of a file that is compressed at all: it is held in memory meanwhile."""
LARGE = 2**20
"""Bytes from which on a file is compressed less thoroughly, in a tenth of the time."""


class Shelf:
    """What an edge has to give away. `stock` fills it, in a thread; everything else looks at it, from any thread."""

    def __init__(self, store: PartitionStore) -> None:
        self._store = store
        self._folder = default_cache_dir() / "served"
        self._files: dict[str, ServedFile] = {}
        self._places: dict[tuple[str, ...], str] = {}
        self._crossings: dict[str, tuple[TensorSpec, ...]] = {}
        self._stop = threading.Event()

    def find(self, hex_: str) -> ServedFile | None:
        """The file of the digest with these hex digits, if it may leave."""
        return self._files.get(hex_)

    def card(self, card: ModelCard) -> ServedFile | None:
        """A model's card, with the partition that was found where it named none; None before it was stocked."""
        return self._at("card", card.digest)

    def head(self, card: ModelCard, cut: PartitionCard, variant: str) -> ServedFile | None:
        """A cut's head; None when it may not leave, or was not stocked yet."""
        return self._at("head", card.partition_id(cut), variant)

    def crossing(self, partition: str) -> tuple[TensorSpec, ...]:
        """The tensors that cross at the partition of this id; none before its head was stocked."""
        return self._crossings.get(partition, ())

    def calibration(self, point: OperatingPoint) -> ServedFile | None:
        """The calibration that a point needs; None when it needs none, or was not stocked yet."""
        return None if point.calibration is None else self._at("calibration", point.calibration.digest)

    def whole(self, card: ModelCard) -> ServedFile | None:
        """A model's whole file, where the card lets it leave."""
        return self._at("whole", card.digest)

    def _at(self, *place: str) -> ServedFile | None:
        digest = self._places.get(place)
        return None if digest is None else self._files.get(digest_hex(digest))

    def stop(self) -> None:
        """Let `stock` return soon."""
        self._stop.set()

    def stock(self, points: Iterable[OperatingPoint]) -> None:
        """Have what belongs to these points and nothing else, in their order; what cannot be made is left out.

        Blocks: making a head takes seconds the first time. What is there already can be had meanwhile.
        """
        wanted: dict[tuple[str, ...], Callable[[], ServedFile]] = {}
        for point in points:
            card, cut = point.card, point.cut
            wanted.setdefault(("card", card.digest), partial(self._of_card, card))
            if card.deliver == "none":
                continue
            for variant in point.heads:
                wanted.setdefault(("head", point.partition, variant), partial(self._of_head, card, cut, variant))
            if point.calibration is not None and (path := card.calibration_path(cut)) is not None:
                digest = point.calibration.digest
                wanted.setdefault(("calibration", digest), partial(self._of_file, path, digest))
            if card.deliver == "whole":
                wanted.setdefault(("whole", card.digest), partial(self._of_whole, card))
        kept = {place: digest for place, digest in self._places.items() if place in wanted}
        self._publish(kept, self._files)
        for place, make in wanted.items():
            if self._stop.is_set():
                return
            if place not in self._places or not self._is_there(self._places[place]):
                with suppress(SplitRtcError, OSError):
                    file = make()
                    self._publish({**self._places, place: file.digest}, {**self._files, file.hex: file})

    def _publish(self, places: dict[tuple[str, ...], str], files: dict[str, ServedFile]) -> None:
        # Replaced, never changed: whoever looks sees the old or the new.
        known = {digest_hex(digest) for digest in places.values()}
        self._files = {hex_: file for hex_, file in files.items() if hex_ in known}
        self._places = places

    def _is_there(self, digest: str) -> bool:
        """Whether a file can still be served: the cache may have made room."""
        file = self._files[digest_hex(digest)]
        return all(path.exists() for path in (file.path, *(path for path, _ in file.compressed.values())))

    def _of_card(self, card: ModelCard) -> ServedFile:
        data = json.dumps(card.to_json(), ensure_ascii=False, separators=(",", ":")).encode()
        digest = bytes_digest(data)
        path = self._folder / digest_hex(digest)
        self._keep(path, data)
        return self._served(digest, path, f"{card.name}.card.json")

    def _of_head(self, card: ModelCard, cut: PartitionCard, variant: str) -> ServedFile:
        head = self._store.head(card, cut.tensors, variant)
        self._crossings = {**self._crossings, head.id: head.crossing}
        return self._served(file_digest(head.head_path), head.head_path, f"{card.name}.{variant}.onnx")

    def _of_whole(self, card: ModelCard) -> ServedFile:
        return self._served(card.digest, card.verified_path(), f"{card.name}.onnx")

    def _of_file(self, path: Path, digest: str) -> ServedFile:
        if file_digest(path) != digest:
            raise UserError(f"{path} has changed since it was read")
        return self._served(digest, path, path.name)

    def _served(self, digest: str, path: Path, name: str) -> ServedFile:
        size = path.stat().st_size
        compressed = {}
        if MIN_BYTES <= size <= MAX_BYTES:
            for coding, compress in CODINGS.items():
                made = self._folder / f"{digest_hex(digest)}.{coding}"
                if not made.exists():
                    data = compress(path.read_bytes())
                    # An empty one says that it did not pay, so that nobody tries again.
                    self._keep(made, data if len(data) <= PAYS * size else b"")
                if smaller := made.stat().st_size:
                    compressed[coding] = made, smaller
        return ServedFile(digest, path, size, name[-64:].lstrip("_.-"), compressed)

    def _keep(self, path: Path, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
        trim(self._folder.iterdir(), cache_limit(), path, lambda path: path.stat().st_mtime)


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.compress(data, 19 if len(data) < LARGE else 9)


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 9 if len(data) < LARGE else 6, mtime=0)


CODINGS: dict[str, Callable[[bytes], bytes]] = {"zstd": _zstd, "gzip": _gzip}
"""As HTTP calls them, the preferred one first."""
