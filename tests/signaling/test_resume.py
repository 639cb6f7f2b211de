from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from signaling import new_resume_id, resume_attribute, resume_id_of, without_resume_id
from signaling.aisplit import offers_of
from splitrtc_errors import ProtocolError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "resume.json").read_text(encoding="utf-8"))
"""Those of docs/protocol.md section 1.5."""


def vectors(kind: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS[kind]]


@pytest.mark.parametrize("vector", vectors("read"))
def test_a_vector_has_its_id(vector: dict[str, Any]) -> None:
    assert resume_id_of((name, value) for name, value in vector["attributes"]) == vector["id"]


@pytest.mark.parametrize("vector", vectors("refused"))
def test_a_malformed_vector_is_refused_for_its_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=re.escape(vector["reason"])):
        resume_id_of((name, value) for name, value in vector["attributes"])


def test_an_id_is_written_and_read() -> None:
    name, value = resume_attribute(new_resume_id())
    assert name == "ai-resume"
    assert len(value) == 32
    assert resume_id_of([("ai-split", "..."), (name, value)]) == value


def test_ids_are_random() -> None:
    assert len({new_resume_id() for _ in range(100)}) == 100


def test_without_one_there_is_none() -> None:
    assert resume_id_of([("ai-split", "...")]) is None


def test_who_knows_only_splits_passes_it_over() -> None:
    assert offers_of([resume_attribute(new_resume_id())]) == []


@pytest.mark.parametrize("value", ["", "ab", 33 * "a", 32 * "A", 32 * "g", 31 * "a" + "\n", 32 * "a" + "\n"])
def test_another_form_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(ProtocolError, match="expected 32 lower-case hex digits") as refused:
        resume_id_of([("ai-resume", value)])
    assert not value.strip() or value.strip() not in str(refused.value)


def test_one_is_enough() -> None:
    with pytest.raises(ProtocolError, match="expected one line, got 2"):
        resume_id_of([resume_attribute(new_resume_id()), resume_attribute(new_resume_id())])


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_it_can_be_taken_out_of_an_offer(newline: str) -> None:
    lines = ["v=0", "m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=dcsa:2 ai-split:1 x", "a=mid:0", ""]
    offer = newline.join([*lines[:3], "a=dcsa:2 ai-resume:" + 32 * "a", *lines[3:]])
    assert without_resume_id(offer) == newline.join(lines) == without_resume_id(newline.join(lines))
    assert "aaa" not in without_resume_id(offer.removesuffix(f"a=mid:0{newline}").removesuffix(newline))
