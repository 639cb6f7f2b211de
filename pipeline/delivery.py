"""What a device gets from its edge instead of having it (TR 26.927 clause 5.3.5, steps 10 to 14).

That is a model's card, a calibration and a head; later, a better head, what the neighbouring cuts need, and where the
card lets it go the whole model.
The edge is believed in what it offers, and in nothing else: every
file is the one of its digest and size or none, a head is that of the cut or none, and no file is larger than the
cache. Everything here blocks, and is for threads.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from models import Calibration, ModelCard, is_calibrated, needs_calibration, parse_profile
from models.cache import cache_limit, default_cache_dir, trim
from models.card import MAX_CARD_BYTES, VARIANTS
from models.download import Download, Progress, fetch
from pipeline.announced import fetch_manifest, way_to
from pipeline.offers import OperatingPoint
from splitrtc_errors import (
    BadArgument,
    ConnectionLost,
    ModelError,
    ProtocolError,
    SplitRtcError,
    UnknownModel,
)

if TYPE_CHECKING:
    from models import Head, PartitionCard, PartitionStore
    from models.access import Access
    from pipeline.settings import UeSettings
    from signaling.manifest import File, Manifest, ModelEntry, PartitionEntry, ProfileEntry

__all__ = ["Delivery", "Show", "improvement", "silently"]

logger = logging.getLogger(__name__)

PARALLEL = 4
"""A card, a calibration and a head are fetched at a time, while what is needed to run them is imported."""
MAX_MODEL = 2**30
"""Bytes of a head, or of a whole model."""
MAX_CALIBRATION = 2**22
MAX_CALIBRATIONS = 4
"""Different ones of one cut: more than one are unusual."""
PREFETCH_SHARE = 0.1
"""Of the cache, that a head may take which nobody needs yet."""
SLOWLY = 125_000
"""Bytes per second at which files are fetched, one at a time, while frames are sent: a twentieth of 20 Mbit/s."""
HEAVY = ("onnxruntime", "models.delivered", "models.runtime", "models.preprocess", "models.codecs")
"""What running a head needs and takes long to import: done while the first bytes are on their way."""

Show = Callable[[str], AbstractContextManager[Progress]]
"""Shows how far the download of what is called so has come."""


@contextlib.contextmanager
def silently(_: str) -> Iterator[Progress]:
    """Show nothing."""
    yield lambda there, total: None


class Delivery:
    """Edges' files. `points` says what can be run with those of one, `head` has the head for one of these points."""

    def __init__(self, settings: UeSettings, store: PartitionStore, show: Show = silently) -> None:
        self._settings = settings
        self._store = store
        self._show = show
        self._base: str
        self._access: Access
        self._heads: dict[tuple[str, str], File] = {}
        """By partition and variant."""
        self._cuts: list[PartitionEntry] = []
        """Those that are delivered and wanted, in the edge's order."""
        self._whole: File | None = None
        self._fetched: dict[str, Future[Path]] = {}
        """By digest: what is under way or here."""
        self._improving: set[str] = set()
        """Partitions of which a better head is under way, or here."""
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="delivery")
        self._slow = threading.Lock()
        """For one slow download at a time."""
        self._stop = threading.Event()

    def stop(self) -> None:
        """Let what is under way end soon; what has come of it stays for the next time. Does not block."""
        self._stop.set()

    def close(self) -> None:
        """Wait for that."""
        self.stop()
        self._pool.shutdown(cancel_futures=True)

    def points(self, url: str) -> list[OperatingPoint]:
        """The operating points of the first cut that the edge there delivers and the user wants, the edge's order.

        Its head begins to arrive: of those variants that are not here the smallest, since any that is here is better.
        Where a choice is to be made, these are the points of all such cuts of the model, and no head arrives yet.

        Raises BadArgument for what is no edge's URL, or no certificate to trust, Unreachable or a kind of Rejected
        when the edge delivers nothing, UnknownModel when not what is wanted,
        ProtocolError or ModelFileError when what it sends is no good.
        """
        settings = self._settings
        self._base, self._access = way_to(url, settings.token, settings.ca, settings.fingerprint)
        self._pool.submit(_import_heavy)
        # What is here is looked at again, and what failed is tried again.
        self._fetched = {digest: fetched for digest, fetched in self._fetched.items() if not fetched.done()}
        manifest = fetch_manifest(self._base, self._access, self._is_enough)
        model, preferred = self._choice(manifest) or self._nothing(manifest)
        card_file = self._begin(model.card, MAX_CARD_BYTES)
        self._cuts = [cut for cut in model.partitions if self._is_wanted(model, cut)]
        offered = [preferred] if settings.decide == "offer" else self._cuts
        for file in [file for cut in offered for file in self._calibrations(cut)]:
            self._begin(file, MAX_CALIBRATION)
        self._heads = {(cut.id, name): file for cut in offered for name, file in _heads_of(cut).items()}
        self._whole = model.whole
        variant = self._best_variant(preferred)
        head = self._heads[preferred.id, variant]
        if len(offered) == 1 and not self._store.has_delivered(preferred.id, variant, head.digest):
            self._begin(head, MAX_MODEL, f"the head of {model.information.name}")
        card = _read_card(card_file.result(), model, offered)
        found = [point for cut in offered for point in self._points_of(card, cut)]
        if not found:
            raise UnknownModel(f"the edge has no profile {self._settings.profile or 'that this device can code'}")
        return found

    def _points_of(self, card: ModelCard, partition: PartitionEntry) -> Iterator[OperatingPoint]:
        """Those at one cut, with its calibrations."""
        cut = card.partition(partition.id)
        if self._settings.privacy == "no-pictures" and {spec.name for spec in card.inputs} & set(cut.tensors):
            raise ProtocolError("the edge's cut would send the picture, and did not say so")
        variant = self._best_variant(partition)
        for entry in self._profiles(partition):
            with contextlib.suppress(BadArgument):  # one that this version does not have
                profile = parse_profile(entry.profile)
                calibration = None
                if needs_calibration(profile):
                    if entry.calibration is None or entry.calibration.digest not in self._fetched:
                        continue
                    calibration = Calibration.load(self._fetched[entry.calibration.digest].result())
                    if calibration.partition != partition.id:
                        raise ProtocolError(f"the edge's calibration for {entry.profile} is that of another cut")
                if is_calibrated(profile, calibration):
                    yield OperatingPoint(card, cut, entry.profile, calibration, variant)

    def head(self, card: ModelCard, tensors: Sequence[str], variant: str = "fp32") -> Head:
        """The head of a cut that `points` has named, fetched if it is not here. See `Heads`."""
        cut = next(cut for cut in card.partitions if cut.tensors == tuple(tensors))
        file = self._heads[card.partition_id(cut), variant]
        if (head := self._store.delivered(card, tensors, variant, file.digest)) is not None:
            return head
        path = self._begin(file, MAX_MODEL, f"the head of {card.name}").result()
        try:
            return self._store.adopt(card, tensors, variant, path.read_bytes())
        except OSError as error:  # another process was faster, or the cache has made room
            if (head := self._store.delivered(card, tensors, variant, file.digest)) is not None:
                return head
            raise ModelError(f"the head of {card.name} has gone: {error.strerror}; try again") from error
        finally:
            self._fetched.pop(file.digest, None)
            path.unlink(missing_ok=True)

    def begin_to_improve(self, point: OperatingPoint, tell: Callable[[], object]) -> None:
        """`improve` in the background, once; ``tell`` is called, in another thread, when something better is here.

        After that, `prefetch`.
        """
        if point.partition in self._improving or self._stop.is_set():
            return
        self._improving.add(point.partition)

        def work() -> None:
            try:
                if self.improve(point):
                    logger.info("a better head of %s has arrived", point.card.name)
                    tell()
                self.prefetch(point)
            except SplitRtcError as error:
                self._improving.discard(point.partition)
                logger.debug("no better head of %s: %s", point.card.name, error)

        self._pool.submit(work)

    def improve(self, point: OperatingPoint) -> bool:
        """Fetch slowly what is better than the head that runs; whether there is such a one now."""
        better = improvement(point.variant, [name for of, name in self._heads if of == point.partition])
        if better is None:
            return False
        file = self._heads[point.partition, better]
        if self._store.delivered(point.card, point.cut.tensors, better, file.digest) is None:
            self._adopt_slowly(point.card, point.cut, better, file)
        return True

    def prefetch(self, point: OperatingPoint) -> None:
        """Fetch slowly what the neighbouring cuts need, which may be better ones soon: the smallest head of each."""
        cuts, card = self._cuts, point.card
        place = next((place for place, cut in enumerate(cuts) if cut.id == point.partition), len(cuts))
        for partition in (*cuts[max(0, place - 1) : place], *cuts[place + 1 : place + 2]):
            variant = self._best_variant(partition)
            file = _heads_of(partition)[variant]
            if file.size > PREFETCH_SHARE * cache_limit():
                continue
            if not self._store.has_delivered(partition.id, variant, file.digest):
                self._adopt_slowly(card, card.partition(partition.id), variant, file)
            for calibration in self._calibrations(partition):
                self._fetch_slowly(calibration, MAX_CALIBRATION)

    def _adopt_slowly(self, card: ModelCard, cut: PartitionCard, variant: str, file: File) -> None:
        path = self._fetch_slowly(file)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            self._store.adopt(card, cut.tensors, variant, path.read_bytes())
        path.unlink(missing_ok=True)

    def begin_whole(self, card: ModelCard) -> Future[ModelCard | None]:
        """`whole` in the background; None also when it cannot be had."""

        def work() -> ModelCard | None:
            try:
                return self.whole(card)
            except SplitRtcError as error:
                logger.debug("the whole of %s cannot be had: %s", card.name, error)
                return None

        return self._pool.submit(work)

    def whole(self, card: ModelCard) -> ModelCard | None:
        """Fetch slowly the whole model of a card that `points` has named, which then can be run without an edge.

        Returns the card with the place of the file; None when the edge keeps it. Raises ModelFileError when it is no
        good (`models.delivered`), else as for a head.
        """
        from models.delivered import check_whole  # which loads onnx

        file = self._whole
        if file is None or file.digest != card.digest:
            return None
        path = self._fetch_slowly(file)
        try:
            check_whole(path.read_bytes(), card)
        except ModelError:
            path.unlink(missing_ok=True)
            raise
        except OSError as error:  # the cache has made room
            raise ModelError(f"the model {card.name} has gone: {error.strerror}") from error
        return replace(card, directory=path.parent, file=path.name)

    def _is_enough(self, manifest: Manifest) -> bool:
        """Whether to go on with what an edge has that is warming."""
        return self._stop.is_set() or (self._settings.decide == "offer" and self._choice(manifest) is not None)

    def _choice(self, manifest: Manifest) -> tuple[ModelEntry, PartitionEntry] | None:
        """The first model and cut, in the edge's order, with a head and as the user wants them, if there is one."""
        all_cuts = ((model, partition) for model in manifest.models for partition in model.partitions)
        return next((found for found in all_cuts if self._is_wanted(*found)), None)

    def _is_wanted(self, model: ModelEntry, partition: PartitionEntry) -> bool:
        settings = self._settings
        return (
            settings.model in (None, model.information.name, model.information.identifier)
            and settings.partition in (None, partition.name, partition.id)
            and not (partition.carries_input and settings.privacy == "no-pictures")
            and bool(_heads_of(partition))
        )

    def _profiles(self, partition: PartitionEntry) -> list[ProfileEntry]:
        return [entry for entry in partition.profiles if self._settings.profile in (None, entry.profile)]

    def _calibrations(self, partition: PartitionEntry) -> list[File]:
        found = {
            entry.calibration.digest: entry.calibration for entry in self._profiles(partition) if entry.calibration
        }
        return list(found.values())[:MAX_CALIBRATIONS]

    def _nothing(self, manifest: Manifest) -> NoReturn:
        settings = self._settings
        there = ", ".join(
            f"{cut.name} of {model.information.name}" for model in manifest.models for cut in model.partitions
        )
        asked = " of ".join(filter(None, (settings.partition, settings.model))) or "a model"
        raise UnknownModel(f"the edge does not deliver the head of {asked:.200}; it serves: {there[:500] or 'nothing'}")

    def _best_variant(self, partition: PartitionEntry) -> str:
        """Of those that are here the best one; else the smallest, since any that is here is better than one to come."""
        heads = _heads_of(partition)
        there = (name for name in VARIANTS if name in heads)
        here = (name for name in there if self._store.has_delivered(partition.id, name, heads[name].digest))
        return next(here, None) or min(heads, key=lambda name: heads[name].size)

    def _begin(self, file: File, limit: int, title: str = "") -> Future[Path]:
        """Fetch a file beside others. The same one once."""
        if file.digest not in self._fetched:
            show = self._show if title else silently
            self._fetched[file.digest] = self._pool.submit(self._fetch, file, limit, show, title)
        return self._fetched[file.digest]

    def _fetch_slowly(self, file: File, limit: int = MAX_MODEL) -> Path:
        with self._slow:
            return self._fetch(file, limit, silently, "", SLOWLY)

    def _fetch(self, file: File, limit: int, show: Show, title: str, rate: float | None = None) -> Path:
        limit = min(limit, cache_limit())
        if file.size > limit:
            raise ProtocolError(f"the edge's file {file.name} has {file.size} bytes, more than {limit}")
        folder = default_cache_dir() / "delivered"
        download = Download(self._base + file.path, file.digest, file.size, self._access, folder, rate)
        with show(title) as progress:

            def go_on(there: int, total: int | None) -> None:
                if self._stop.is_set():
                    raise ConnectionLost("the session was closed")
                progress(there, total)

            path = fetch(download, progress=go_on)
        with contextlib.suppress(OSError):  # another process is through with it
            os.utime(path)
        trim(folder.iterdir(), cache_limit(), path, lambda path: path.stat().st_mtime)
        return path


def improvement(running: str, there: Collection[str]) -> str | None:
    """The best of these variants of a head, if it is better than the one that runs; None if it is not."""
    best = min((running, *there), key=VARIANTS.index)
    return None if best == running else best


def _heads_of(partition: PartitionEntry) -> dict[str, File]:
    """Those that are delivered, of the variants that this version knows, by name."""
    return {one.name: one.head for one in partition.variants if one.head is not None and one.name in VARIANTS}


def _read_card(path: Path, model: ModelEntry, partitions: Iterable[PartitionEntry]) -> ModelCard:
    """The card, which has these cuts; ProtocolError when it is not what the manifest speaks of."""
    where = "the card that the edge delivers"
    try:
        card = ModelCard.from_json(json.loads(path.read_bytes()), where=where)
        for partition in partitions:
            card.partition(partition.id)
    except (ModelError, UnknownModel, ValueError, RecursionError, OSError) as error:
        path.unlink(missing_ok=True)
        raise ProtocolError(f"{where} is no good: {error}") from error
    if card.digest != model.information.identifier:
        raise ProtocolError(f"{where} is that of another model: {card.name[:100]}")
    return card


def _import_heavy() -> None:
    for module in HEAVY:
        with contextlib.suppress(ImportError):  # who needs it says so
            importlib.import_module(module)
