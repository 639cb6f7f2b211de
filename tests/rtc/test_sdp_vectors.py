"""The vectors of docs/protocol.md section 1.2: channels in session descriptions."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rtc.channels import ChannelIds, channel_ids, channel_maps, intermediate_attributes
from rtc.sdp import ChannelAttribute, ChannelMap, add_channel_attributes, read_channel_attributes
from rtc.transport import check_description
from splitrtc_errors import ProtocolError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "sdp.json").read_text(encoding="utf-8"))
MAP, ATTRIBUTE = "a=dcmap:", "a=dcsa:"


def vectors(*kinds: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for kind in kinds for vector in VECTORS[kind]]


def read(sdp: str) -> tuple[ChannelIds, list[list[str]]]:
    """All that is looked at when a description arrives."""
    maps, _ = read_channel_attributes(sdp)
    ids = channel_ids(maps)
    check_description(sdp)
    return ids, [list(attribute) for attribute in intermediate_attributes(sdp)]


def ids_of(vector: dict[str, Any]) -> ChannelIds:
    return ChannelIds(vector["control"], vector["intermediate"], vector["result"])


@pytest.mark.parametrize("vector", vectors("dcmap", "dcmap_read_only"))
def test_reading_a_channel_gives_its_fields(vector: dict[str, Any]) -> None:
    assert asdict(ChannelMap.parse(vector["line"].removeprefix(MAP))) == vector["channel"]


@pytest.mark.parametrize("vector", vectors("dcmap"))
def test_writing_a_channel_gives_its_line(vector: dict[str, Any]) -> None:
    assert MAP + ChannelMap(**vector["channel"]).format() == vector["line"]


@pytest.mark.parametrize("vector", vectors("dcmap_refused"))
def test_a_malformed_channel_is_refused_for_its_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=re.escape(vector["reason"])):
        ChannelMap.parse(vector["line"].removeprefix(MAP))


@pytest.mark.parametrize("vector", vectors("dcsa"))
def test_an_attribute_is_read_and_written_as_its_vector(vector: dict[str, Any]) -> None:
    attribute = ChannelAttribute(vector["stream_id"], vector["attribute"], vector["value"])
    assert ChannelAttribute.parse(vector["line"].removeprefix(ATTRIBUTE)) == attribute
    assert ATTRIBUTE + attribute.format() == vector["line"]


@pytest.mark.parametrize("vector", vectors("dcsa_refused"))
def test_a_malformed_attribute_is_refused_for_its_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=re.escape(vector["reason"])):
        ChannelAttribute.parse(vector["line"].removeprefix(ATTRIBUTE))


@pytest.mark.parametrize("vector", vectors("descriptions", "descriptions_read_only"))
def test_reading_a_description_gives_its_channels(vector: dict[str, Any]) -> None:
    assert read(vector["sdp"]) == (ids_of(vector), vector["attributes"])


@pytest.mark.parametrize("vector", vectors("descriptions"))
def test_adding_channels_gives_the_description(vector: dict[str, Any]) -> None:
    ids = ids_of(vector)
    attributes = [ChannelAttribute(ids.intermediate, name, value) for name, value in vector["attributes"]]
    assert add_channel_attributes(vector["before"], channel_maps(ids), attributes) == vector["sdp"]


@pytest.mark.parametrize("vector", vectors("descriptions_refused"))
def test_a_description_is_refused_for_its_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=re.escape(vector["reason"])):
        read(vector["sdp"])
