"""The models that an edge serves: read from its folders, and again when these have changed.

Nothing here watches, waits or runs a model: `Edge` asks, in a thread, once a second.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models import Zoo, is_accepted_unasked, parse_profile
from models.zoo import DEFAULT_MODEL
from pipeline.offers import acceptables, points, remote_points
from pipeline.settings import VIDEO
from splitrtc_errors import BadArgument, ModelError, SplitRtcError, UnknownModel

if TYPE_CHECKING:
    from models import ModelCard
    from pipeline.offers import OperatingPoint
    from pipeline.settings import EdgeSettings
    from signaling import Acceptable

__all__ = ["Catalogue", "Library"]

logger = logging.getLogger(__name__)

PATTERNS = ("*.onnx", "*.json", "*/card*.json", "*/*.json", "*/*.onnx")
"""What of a folder is looked at for changes."""
MAX_FILES = 10_000
"""Files of a folder that are looked at."""

Seen = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What an edge serves from one moment on; sessions that run keep what they were agreed on."""

    points: tuple[OperatingPoint, ...]
    acceptables: tuple[Acceptable, ...]

    @classmethod
    def of(cls, found: Sequence[OperatingPoint]) -> Catalogue:
        """Of these operating points, the preferred ones first."""
        return cls(tuple(found), tuple(acceptables(found)))

    @property
    def splits(self) -> tuple[OperatingPoint, ...]:
        """Those of the mode `split`: with a head that runs on the device."""
        return tuple(point for point in self.points if not point.is_video)

    @property
    def cards(self) -> list[ModelCard]:
        """The cards of its models, in order."""
        return list({point.card.digest: point.card for point in self.points}.values())

    def without(self, card: ModelCard) -> Catalogue:
        """The same without one model."""
        return Catalogue.of([point for point in self.points if point.card.digest != card.digest])


class Library:
    """The bundled models, and those in the folders that the settings name.

    What is no good there is told to the log, once for each state of its file, and left out: one bad card is no reason
    to serve none. All methods block.
    """

    def __init__(self, settings: EdgeSettings) -> None:
        """Raises BadArgument for a folder that is not there."""
        self._settings = settings
        for folder in settings.models:
            if not folder.is_dir():
                raise BadArgument(f"no model in {folder}: there is no such folder")
        self._seen: frozenset[Seen] = frozenset()
        self._told: set[tuple[str, Seen | None]] = set()

    def has_changed(self) -> bool:
        """Whether a file was added, replaced or withdrawn since `read`."""
        return bool(self._settings.models) and self._look() != self._seen

    def read(self) -> Catalogue:
        """What is to be served now. UnknownModel when that is nothing."""
        self._seen = self._look()
        zoo = Zoo(self._settings.models, bad=self.leave_out)
        accept = self._settings.accept
        found = [point for name in self._names(zoo) for point in self._points(zoo, name)]
        found = [point for point in found if self._accepts(point.profile)]
        if not found:
            wanted = [f"the profiles {', '.join(accept)}"] if accept else []
            wanted += [f"--model {name}" for name in self._settings.model]
            raise UnknownModel(f"no model can be run with {' and '.join(wanted) or 'what is here'}")
        return Catalogue.of(found)

    def _accepts(self, profile: str) -> bool:
        accept = self._settings.accept
        return profile in accept if accept else profile == VIDEO or is_accepted_unasked(parse_profile(profile))

    def leave_out(self, path: Path, error: SplitRtcError) -> None:
        """Say that what lies there cannot be served."""
        key = str(path), _seen(path)
        if key not in self._told:
            self._told.add(key)
            logger.warning("%s is left out: %s", path, error)

    def _look(self) -> frozenset[Seen]:
        found: list[Seen] = []
        for folder in self._settings.models:
            for pattern in PATTERNS:
                for path in folder.glob(pattern):
                    if len(found) < MAX_FILES and (seen := _seen(path)) is not None:
                        found.append(seen)
        return frozenset(found)

    def _names(self, zoo: Zoo) -> list[str]:
        """Of the models to serve: all that are here, unless some were named."""
        if self._settings.model:
            return list(self._settings.model)
        here = [name for name in zoo.names() if zoo.get(name).is_here]
        return sorted(here, key=lambda name: name != DEFAULT_MODEL)

    def _points(self, zoo: Zoo, name: str) -> list[OperatingPoint]:
        card = zoo.get(name)
        try:
            found = points(zoo, model=name)
            # A profile that is named need not be in a card: it may have a step of its own.
            further = [profile for profile in self._settings.accept if profile not in (*card.profiles, VIDEO)]
            found += [point for profile in further for point in points(zoo, model=name, profile=profile)]
            return found + remote_points(zoo, model=name, here=True)
        except ModelError as error:
            if self._settings.model:
                raise
            assert card.directory is not None, "the zoo's cards come from folders"
            self.leave_out(card.directory, error)
            return []


def _seen(path: Path) -> Seen | None:
    try:
        status = path.stat()
    except OSError:  # removed just now
        return None
    return str(path), status.st_mtime_ns, status.st_size
