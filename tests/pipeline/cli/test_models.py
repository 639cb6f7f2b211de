from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models import ModelCard, Zoo, bytes_digest
from splitrtc_errors import BadArgument, ModelFileError

Call = Callable[..., Any]


@pytest.fixture
def card_folder(tmp_path: Path) -> Path:
    """A folder with a card of one's own."""
    value = {
        **Zoo().get().to_json(),
        "name": "mine",
        "digest": bytes_digest(b"mine"),
        "title": "My [/bold] model [red]",
        "licence": "[see LICENSE]",
    }
    (tmp_path / "card.json").write_text(json.dumps(value))
    return tmp_path


def test_the_table_says_what_is_known_of_a_model(splitrtc: Call) -> None:
    done = splitrtc("models")
    assert (done.exit_code, done.err) == (0, "")
    text = " ".join(done.out.split())
    card = Zoo().get()
    for known in (
        card.name,
        card.title,
        "bottleneck_7 (default): Conv__979:0",
        f"{card.default_profile} (default)",
        "Apache-2.0",
    ):
        assert known in text
    # Long values are folded, not cut off.
    assert all(card.partition_id(cut) in done.out.replace("\n          ", "") for cut in card.partitions)


def test_json_holds_the_cards_and_the_ids_of_their_cuts(splitrtc: Call) -> None:
    done = splitrtc("models", "--json")
    assert (done.exit_code, done.err) == (0, "")
    card = Zoo().get()
    (value,) = [value for value in done.json if value["name"] == card.name]
    assert value.pop("partition_ids") == {cut.name: card.partition_id(cut) for cut in card.partitions}
    assert ModelCard.from_json(value) == card


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_folders_of_one_s_own_are_listed_too(
    splitrtc: Call, card_folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "environment":
        monkeypatch.setenv("SPLITRTC_MODELS", str(card_folder))
    words = ["--models", str(card_folder)] if how == "flag" else []
    assert {card["name"] for card in splitrtc("models", "--json", *words).json} == {"mine", *Zoo().names()}


def test_brackets_in_a_card_are_no_markup(splitrtc: Call, card_folder: Path) -> None:
    done = splitrtc("models", "--models", str(card_folder))
    assert done.exit_code == 0
    assert "My [/bold] model [red]" in done.out
    assert "[see LICENSE]" in done.out


def test_a_folder_without_models_is_told(splitrtc: Call, tmp_path: Path) -> None:
    done = splitrtc("models", "--models", str(tmp_path))
    assert done.exit_code == BadArgument.exit_code
    assert str(tmp_path) in done.error


def test_a_damaged_card_is_told(splitrtc: Call, card_folder: Path) -> None:
    (card_folder / "card.json").write_text("{")
    done = splitrtc("models", "--json", "--models", str(card_folder))
    assert (done.exit_code, done.out) == (ModelFileError.exit_code, "")
    assert "card.json" in done.error
