"""The examples of docs/protocol.md are what they are said to be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from models.tensor import TensorSpec
from signaling.aisplit import SplitOffer
from signaling.control import parse_control, serialise_control
from signaling.swap import SECOND, STANDARD, Dialect, parse, serialise

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
SWAP_STANDARD, SWAP_SECOND, CONTROL = (
    block.splitlines() for block in re.findall(r"(?ms)^```json\n(.*?)^```$", PAGE)
)  # fmt: skip


def as_json(text: str) -> dict[str, Any]:
    """The object, with a problem that is a text in it as the object that it is."""
    fields: dict[str, Any] = json.loads(text)
    if str(fields.get("reason")).startswith("{"):
        fields["reason"] = json.loads(fields["reason"])
    return fields


@pytest.mark.parametrize(("dialect", "lines"), [(STANDARD, SWAP_STANDARD), (SECOND, SWAP_SECOND)])
def test_swap_messages_are_written_as_on_the_page(dialect: Dialect, lines: list[str]) -> None:
    types = set()
    for line in lines:
        message, spoken = parse(line)
        assert spoken is dialect
        assert as_json(serialise(message, dialect)) == as_json(line)
        types.add(type(message.body).__name__)
    assert len(types) == 8


def test_control_messages_are_written_as_on_the_page() -> None:
    types = set()
    for line in CONTROL:
        message = parse_control(line)
        assert message is not None
        assert json.loads(serialise_control(message)) == json.loads(line)
        types.add(type(message))
    assert len(types) == 9


def test_the_example_of_ai_split_is_one() -> None:
    (text,) = re.findall(r"(?m)^a=dcsa:2 ai-split:1 (.*)$", PAGE)
    offer = SplitOffer.parse(text.replace("<64 hex>", "0" * 64).replace("<32 hex>", "0" * 32))
    assert offer.tensors == (TensorSpec("Conv__979:0", "float32", (1, 64, 19, 19)),)
    assert text.endswith(";" + re.findall(r"(?m)^(tensors=.*)$", PAGE)[0])
