"""The session's three data channels (docs/protocol.md, section 1.2), as values: nothing is opened here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from splitrtc_errors import ProtocolError

from .sdp import ChannelMap, read_channel_attributes

__all__ = [
    "CHANNELS",
    "CONTROL",
    "INTERMEDIATE",
    "RESULT",
    "ChannelIds",
    "ChannelSpec",
    "channel_ids",
    "channel_maps",
    "intermediate_attributes",
]


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """What one channel is. `max_retransmits` None means reliable."""

    label: str
    subprotocol: str
    ordered: bool
    max_retransmits: int | None
    default_id: int

    def map(self, stream_id: int) -> ChannelMap:
        """Its line in the session description, under a stream id."""
        return ChannelMap(stream_id, self.label, self.subprotocol, self.ordered, self.max_retransmits)


CONTROL = ChannelSpec("control", "splitrtc.control.v1", True, None, 0)
INTERMEDIATE = ChannelSpec("intermediate", "splitrtc.intermediate.v1", False, 0, 2)
RESULT = ChannelSpec("result", "splitrtc.result.v1", False, 0, 4)
CHANNELS = (CONTROL, INTERMEDIATE, RESULT)


@dataclass(frozen=True, slots=True)
class ChannelIds:
    """The stream ids of the three channels. Fixed by the offer and independent of the DTLS role."""

    control: int = CONTROL.default_id
    intermediate: int = INTERMEDIATE.default_id
    result: int = RESULT.default_id


def channel_maps(ids: ChannelIds = ChannelIds()) -> list[ChannelMap]:
    """The three lines of an offer or an answer. Raises `BadArgument` for an id outside 0-1023."""
    return [CONTROL.map(ids.control), INTERMEDIATE.map(ids.intermediate), RESULT.map(ids.result)]


def channel_ids(maps: Iterable[ChannelMap]) -> ChannelIds:
    """Find the three channels in a description by their sub-protocols; other channels are passed over.

    Raises `ProtocolError` if one is missing, is there twice, or is described with another reliability: an answer can
    only repeat the offer's (RFC 8864, section 6.4), and ours is fixed.
    """
    found: dict[str, int] = {}
    specs = {spec.subprotocol: spec for spec in CHANNELS}
    for channel in maps:
        spec = specs.get(channel.subprotocol or "")
        if spec is None:
            continue
        if spec.label in found:
            raise ProtocolError(f"two channels with sub-protocol {spec.subprotocol}")
        delivery = (channel.ordered, channel.max_retr, channel.max_time)
        if delivery != (spec.ordered, spec.max_retransmits, None):
            raise ProtocolError(f"channel {spec.subprotocol} as (ordered, max-retr, max-time) = {delivery}")
        found[spec.label] = channel.stream_id
    missing = [spec.subprotocol for spec in CHANNELS if spec.label not in found]
    if missing:
        raise ProtocolError(f"the description has no channel with sub-protocol {', '.join(missing)}")
    return ChannelIds(**found)


def intermediate_attributes(sdp: str) -> list[tuple[str, str]]:
    """Names and values of the attributes of the intermediate channel in a description; none without our channels.

    Raises `ProtocolError` for malformed lines, and for a description that has only some of the three channels.
    """
    maps, attributes = read_channel_attributes(sdp)
    if not maps:
        return []  # a peer that knows nothing of channels in the description
    stream_id = channel_ids(maps).intermediate
    return [(attribute.name, attribute.value) for attribute in attributes if attribute.stream_id == stream_id]
