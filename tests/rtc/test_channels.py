from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from rtc.channels import (
    CHANNELS,
    CONTROL,
    INTERMEDIATE,
    RESULT,
    ChannelIds,
    channel_ids,
    channel_maps,
    intermediate_attributes,
)
from rtc.sdp import ChannelAttribute, ChannelMap, add_channel_attributes
from splitrtc_errors import BadArgument, ProtocolError

SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"


def test_the_three_lines_are_those_of_the_protocol() -> None:
    assert [channel.format() for channel in channel_maps()] == [
        '0 subprotocol="splitrtc.control.v1";label="control"',
        '2 subprotocol="splitrtc.intermediate.v1";label="intermediate";ordered=false;max-retr=0',
        '4 subprotocol="splitrtc.result.v1";label="result";ordered=false;max-retr=0',
    ]


def test_the_offerer_may_choose_other_ids() -> None:
    ids = ChannelIds(control=7, intermediate=1_023, result=0)
    assert [channel.stream_id for channel in channel_maps(ids)] == [7, 1_023, 0]
    assert channel_ids(channel_maps(ids)) == ids


def test_an_impossible_id_is_refused() -> None:
    with pytest.raises(BadArgument, match="stream id 1024"):
        channel_maps(ChannelIds(result=1_024))


@pytest.mark.parametrize("maps", list(permutations(channel_maps())))
def test_the_order_of_the_lines_does_not_matter(maps: tuple[ChannelMap, ...]) -> None:
    assert channel_ids(maps) == ChannelIds(0, 2, 4)


def test_channels_are_recognised_by_their_subprotocol_alone() -> None:
    maps = [replace(channel, label=None, priority=1, stream_id=channel.stream_id + 10) for channel in channel_maps()]
    decoys = [ChannelMap(0, label="control"), ChannelMap(2, subprotocol="x"), ChannelMap(4, subprotocol="")]
    assert channel_ids(decoys + maps) == ChannelIds(10, 12, 14)


@pytest.mark.parametrize("missing", range(3))
def test_a_missing_channel_is_named(missing: int) -> None:
    maps = channel_maps()
    del maps[missing]
    with pytest.raises(ProtocolError, match=f"no channel with sub-protocol {CHANNELS[missing].subprotocol}$"):
        channel_ids(maps)


def test_all_missing_channels_are_named() -> None:
    with pytest.raises(ProtocolError) as caught:
        channel_ids([])
    assert all(spec.subprotocol in str(caught.value) for spec in CHANNELS)


def test_one_subprotocol_twice_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"two channels with sub-protocol splitrtc\.result\.v1"):
        channel_ids([*channel_maps(), RESULT.map(6)])


@pytest.mark.parametrize(
    ("index", "change"),
    [
        (0, {"ordered": False}),
        (0, {"max_retr": 3}),
        (0, {"max_time": 100}),
        (1, {"ordered": True}),
        (1, {"max_retr": 1}),
        (1, {"max_retr": None}),
        (2, {"max_retr": None, "max_time": 50}),
    ],
)
def test_another_reliability_is_refused(index: int, change: dict[str, Any]) -> None:
    maps = channel_maps()
    maps[index] = replace(maps[index], **change)
    with pytest.raises(ProtocolError, match=CHANNELS[index].subprotocol):
        channel_ids(maps)


def test_control_is_reliable_and_the_others_never_wait() -> None:
    assert (CONTROL.ordered, CONTROL.max_retransmits) == (True, None)
    assert (INTERMEDIATE.ordered, INTERMEDIATE.max_retransmits) == (False, 0)
    assert (RESULT.ordered, RESULT.max_retransmits) == (False, 0)


def test_attributes_of_the_intermediate_channel_are_found_whatever_its_id() -> None:
    ids = ChannelIds(control=6, intermediate=10, result=8)
    wanted = ChannelAttribute(10, "ai-split", "1 model=a")
    foreign = ChannelAttribute(6, "ai-split", "1 model=b")
    sdp = add_channel_attributes(SDP, channel_maps(ids), [foreign, wanted])
    assert intermediate_attributes(sdp) == [("ai-split", "1 model=a")]


def test_a_description_without_channels_has_no_attributes() -> None:
    assert intermediate_attributes(SDP) == []


def test_a_description_with_some_of_the_channels_is_refused() -> None:
    sdp = add_channel_attributes(SDP, channel_maps()[:2])
    with pytest.raises(ProtocolError, match=r"splitrtc\.result\.v1"):
        intermediate_attributes(sdp)
