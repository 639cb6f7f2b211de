"""The zoo: the models that can be asked for by name.

A model is a folder with a ``card.json``, the calibrations of its partitions, and perhaps the ONNX file that the card
describes; else that is fetched (`models.download`), or lies in another folder, where it is found by its digest. Where
the same model goes about as different files, which are different models to a protocol that goes by digests, the folder
has one ``card.NAME.json`` for each of the others. Bundled models lie beside this module; a user's own lie in folders
of the same layout elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from models.card import ModelCard
from splitrtc_errors import BadArgument, ModelFileError, SplitRtcError, UnknownModel

__all__ = ["DEFAULT_MODEL", "Zoo"]

DEFAULT_MODEL = "ssdlite_mbv2_coco_300"
BUNDLED = Path(__file__).parent
CARD_FILE = "card.json"
OTHER_CARDS = "card.*.json"


class Zoo:
    """The bundled models and those in ``directories``: each a model's folder, a folder of such folders, or of files.

    Only cards are read here; a model's file is checked when it is used. BadArgument when a directory holds no model,
    ModelFileError when a card is no good, or two models share a name or a digest. With ``bad``, these are told to it
    instead, and left out. Without the ``bundled`` models, a zoo may be empty.
    """

    def __init__(
        self,
        directories: Sequence[Path] = (),
        *,
        bundled: bool = True,
        bad: Callable[[Path, SplitRtcError], None] | None = None,
    ) -> None:
        self._cards: dict[str, list[ModelCard]] = {}
        self._by_digest: dict[str, ModelCard] = {}
        for directory in (*([BUNDLED] if bundled else []), *directories):
            folders = [directory, *sorted(path.parent for path in directory.glob(f"*/{CARD_FILE}"))]
            holding = [folder for folder in folders if (folder / CARD_FILE).exists()]
            if not holding and bad is None and not any(directory.glob("*.onnx")):
                raise BadArgument(f"no model in {directory}: no {CARD_FILE}, no folder that has one, and no *.onnx")
            for folder in holding:
                for path in (folder / CARD_FILE, *sorted(folder.glob(OTHER_CARDS))):
                    try:
                        self._add(ModelCard.load(path, tuple(directories)))
                    except SplitRtcError as error:
                        if bad is None:
                            raise
                        bad(path, error)

    def _add(self, card: ModelCard) -> None:
        named = self._cards.get(card.name, [])
        twins = [known for known in named if known.directory != card.directory]
        for known in (*twins, self._by_digest.get(card.digest)):
            if known is not None:
                raise ModelFileError(
                    f"{card.directory} holds model {card.name}, which has the name or the digest "
                    f"of model {known.name} in {known.directory}"
                )
        self._cards[card.name] = [*named, card]
        self._by_digest[card.digest] = card

    def names(self) -> list[str]:
        """The names of all models, sorted."""
        return sorted(self._cards)

    def get(self, name: str = DEFAULT_MODEL) -> ModelCard:
        """Return the card of the model of this name; of several, the first one whose file is here, if there is one.

        UnknownModel says which names there are.
        """
        try:
            cards = self._cards[name]
        except KeyError:
            raise UnknownModel(
                f"no model {name[:100]!r} in the zoo; it has: {', '.join(self.names()) or 'none'}"
            ) from None
        return next((card for card in cards if card.is_here), cards[0])

    def by_digest(self, digest: str) -> ModelCard:
        """Return the card of the model whose file has this digest; UnknownModel when there is none."""
        try:
            return self._by_digest[digest]
        except KeyError:
            raise UnknownModel(f"no model with digest {digest[:100]!r} in the zoo") from None
