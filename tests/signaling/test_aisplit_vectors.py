"""The vectors of docs/protocol.md section 1.3: lines of ``ai-split``, and answers as the UE judges them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from models.tensor import TensorSpec
from signaling.aisplit import ATTRIBUTE, SplitOffer, offers_of
from signaling.negotiation import check_answer
from splitrtc_errors import ProtocolError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "aisplit.json").read_text(encoding="utf-8"))


def vectors(*kinds: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for kind in kinds for vector in VECTORS[kind]]


def split_of(fields: dict[str, Any]) -> SplitOffer:
    renamed = {"cal": "calibration", "dir": "direction"}
    values = {renamed.get(name, name): value for name, value in fields.items()}
    return SplitOffer(**{**values, "tensors": tuple(map(TensorSpec.from_json, fields["tensors"]))})


@pytest.mark.parametrize("vector", vectors("both_ways", "read_only"))
def test_reading_a_vector_gives_its_values(vector: dict[str, Any]) -> None:
    expected = split_of(vector["split"])
    read = SplitOffer.parse(vector["text"])
    assert (read, read.tensors) == (expected, expected.tensors)


@pytest.mark.parametrize("vector", vectors("both_ways"))
def test_writing_a_vector_gives_its_text(vector: dict[str, Any]) -> None:
    assert split_of(vector["split"]).format() == vector["text"]


@pytest.mark.parametrize("vector", vectors("refused"))
def test_a_malformed_vector_is_refused_for_its_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=re.escape(vector["reason"])):
        SplitOffer.parse(vector["text"])


@pytest.mark.parametrize("vector", vectors("lines"))
def test_lines_are_read_in_the_order_of_preference(vector: dict[str, Any]) -> None:
    offers = offers_of((ATTRIBUTE, value) for value in vector["values"])
    assert [offer.model for offer in offers] == vector["models"]


@pytest.mark.parametrize("vector", vectors("lines_refused"))
def test_malformed_lines_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=re.escape(vector["reason"])):
        offers_of((ATTRIBUTE, value) for value in vector["values"])


@pytest.mark.parametrize("vector", vectors("answers"))
def test_an_answer_is_taken(vector: dict[str, Any]) -> None:
    answered = [SplitOffer.parse(text) for text in vector["answered"]]
    agreed = check_answer([SplitOffer.parse(text) for text in vector["offered"]], answered)
    assert [(split.operating_point, split.fps, split.dynamic) for split in agreed] == [
        (split.operating_point, split.fps, split.dynamic) for split in answered
    ]


@pytest.mark.parametrize("vector", vectors("answers_refused"))
def test_an_answer_is_refused(vector: dict[str, Any]) -> None:
    offered, answered = ([SplitOffer.parse(text) for text in vector[side]] for side in ("offered", "answered"))
    with pytest.raises(ProtocolError, match=re.escape(vector["reason"])):
        check_answer(offered, answered)
