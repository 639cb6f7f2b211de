"""The zoo: the models that can be asked for by name.

A model is a folder with a ``card.json``, the ONNX file that it names and the calibrations of its partitions. Bundled
models lie beside this module; a user's own lie in folders of the same layout elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.card import ModelCard
from splitrtc_errors import BadArgument, ModelFileError, UnknownModel

__all__ = ["DEFAULT_MODEL", "Zoo"]

DEFAULT_MODEL = "ssdlite_mbv2_coco_300"
CARD_FILE = "card.json"


class Zoo:
    """The bundled models and those in ``directories``: each a model's folder, or a folder of such folders.

    Only cards are read here; a model's file is checked when it is used. BadArgument when a directory holds no model,
    ModelFileError when a card is no good, or two models share a name or a digest.
    """

    def __init__(self, directories: Sequence[Path] = ()) -> None:
        self._cards: dict[str, ModelCard] = {}
        self._by_digest: dict[str, ModelCard] = {}
        for directory in (Path(__file__).parent, *directories):
            paths = [
                path for path in (directory / CARD_FILE, *sorted(directory.glob(f"*/{CARD_FILE}"))) if path.exists()
            ]
            if not paths:
                raise BadArgument(f"no model in {directory}: neither a {CARD_FILE} nor a folder that has one")
            for path in paths:
                self._add(ModelCard.load(path))

    def _add(self, card: ModelCard) -> None:
        for known in (self._cards.get(card.name), self._by_digest.get(card.digest)):
            if known is not None:
                raise ModelFileError(
                    f"{card.directory} holds model {card.name}, which has the name or the digest "
                    f"of model {known.name} in {known.directory}"
                )
        self._cards[card.name] = card
        self._by_digest[card.digest] = card

    def names(self) -> list[str]:
        """The names of all models, sorted."""
        return sorted(self._cards)

    def get(self, name: str = DEFAULT_MODEL) -> ModelCard:
        """Return the card of the model of this name; UnknownModel says which there are."""
        try:
            return self._cards[name]
        except KeyError:
            raise UnknownModel(f"no model {name[:100]!r} in the zoo; it has: {', '.join(self.names())}") from None

    def by_digest(self, digest: str) -> ModelCard:
        """Return the card of the model whose file has this digest; UnknownModel when there is none."""
        try:
            return self._by_digest[digest]
        except KeyError:
            raise UnknownModel(f"no model with digest {digest[:100]!r} in the zoo") from None
