from __future__ import annotations

import struct

import pytest
from aiortc.rtcsctptransport import RECONFIG_PARAM_TYPES, ReconfigChunk, parse_packet
from google_crc32c import value as crc32c
from hypothesis import given
from hypothesis import strategies as st

from rtc.sctp_wire import MAX_CHUNKS, MAX_DCEP, MAX_ECHO, MAX_REPLIES, check_gaps, check_open, check_packet
from splitrtc_errors import ProtocolError

DATA = bytes(12) + b"x"


def chunk(kind: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) + 4
    return struct.pack("!BBH", kind, 0, size if length is None else length) + body + bytes(-size % 4)


def packet(*chunks: bytes) -> bytes:
    header = struct.pack("!HHL", 5000, 5000, 1)
    data = b"".join(chunks)
    return header + struct.pack("<L", crc32c(header + bytes(4) + data)) + data


def parameter(kind: int, value: bytes, length: int | None = None) -> bytes:
    size = len(value) + 4
    return struct.pack("!HH", kind, size if length is None else length) + value + bytes(-size % 4)


GOOD = {
    "data": [chunk(0, DATA)],
    "two data chunks": [chunk(0, DATA), chunk(0, DATA)],
    "init": [chunk(1, bytes(16) + parameter(0xC000, b""))],
    "init ack": [chunk(2, bytes(16) + parameter(7, bytes(24)))],
    "sack": [chunk(3, bytes(8) + struct.pack("!HH", 1, 2) + bytes(12))],
    "heartbeat": [chunk(4, parameter(1, b"time"))],
    "abort": [chunk(6, b"")],
    "shutdown": [chunk(7, bytes(4))],
    "cookie echo": [chunk(10, bytes(24))],
    "cookie ack": [chunk(11, b"")],
    "reset request": [chunk(130, parameter(13, bytes(12) + b"\x00\x02"))],
    "reset response": [chunk(130, parameter(16, bytes(8)))],
    "more streams": [chunk(130, parameter(17, bytes(8)))],
    "unknown reconfiguration": [chunk(130, parameter(15, b""))],
    "forward tsn": [chunk(192, bytes(4) + bytes(8))],
    "unknown": [chunk(77, b"what")],
    "most chunks": [chunk(0, DATA)] * MAX_CHUNKS,
    "most replies": [chunk(4, b"")] * MAX_REPLIES,
    "largest echo": [chunk(4, parameter(1, bytes(MAX_ECHO - 4)))],
}

BAD = {
    "nothing": [b""],
    "half a chunk": [b"\x00\x00"],
    "length below the header": [chunk(0, DATA, length=3)],
    "length beyond the end": [chunk(0, DATA, length=60)],
    "no user data": [chunk(0, bytes(12))],
    "no body": [chunk(0, b"")],
    "short init": [chunk(1, bytes(15))],
    "init with another": [chunk(1, bytes(16)), chunk(0, DATA)],
    "short sack": [chunk(3, bytes(11))],
    "sack with more gaps than bytes": [chunk(3, bytes(8) + struct.pack("!HH", 2, 0) + bytes(4))],
    "sack with a rest": [chunk(3, bytes(12) + bytes(4))],
    "short shutdown": [chunk(7, bytes(3))],
    "empty cookie": [chunk(10, b"")],
    "half a stream in forward tsn": [chunk(192, bytes(6))],
    "empty forward tsn": [chunk(192, b"")],
    "parameter without a length": [chunk(4, parameter(1, b"time", length=0))],
    "parameter beyond the end": [chunk(4, parameter(1, b"time", length=12))],
    "abort with a bad cause": [chunk(6, parameter(1, b"", length=1))],
    "short reset request": [chunk(130, parameter(13, bytes(11)))],
    "half a stream in a reset request": [chunk(130, parameter(13, bytes(13)))],
    "short reset response": [chunk(130, parameter(16, bytes(7)))],
    "short request for streams": [chunk(130, parameter(17, bytes(7)))],
    "large echo": [chunk(4, parameter(1, bytes(MAX_ECHO - 3)))],
    "large cookie to be echoed": [chunk(2, bytes(16) + parameter(7, bytes(MAX_ECHO + 1)))],
    "large cookie": [chunk(10, bytes(MAX_ECHO + 1))],
    "too many chunks": [chunk(0, DATA)] * (MAX_CHUNKS + 1),
    "too many replies": [chunk(4, b"")] * (MAX_REPLIES + 1),
}


@pytest.mark.parametrize("chunks", GOOD.values(), ids=GOOD)
def test_good_packets_pass(chunks: list[bytes]) -> None:
    check_packet(packet(*chunks))
    parse_packet(packet(*chunks))


@pytest.mark.parametrize("chunks", BAD.values(), ids=BAD)
def test_bad_packets_do_not(chunks: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        check_packet(packet(*chunks))


@given(
    st.lists(
        st.builds(
            chunk,
            st.sampled_from([*range(16), 130, 192, 77]),
            st.one_of(
                st.binary(max_size=64),
                st.builds(
                    lambda head, params: head + b"".join(params),
                    st.sampled_from([b"", bytes(4), bytes(16)]),
                    st.lists(
                        st.builds(
                            parameter,
                            st.sampled_from([1, 7, 13, 16, 17]),
                            st.binary(max_size=20),
                            st.none() | st.integers(0, 30),
                        ),
                        max_size=4,
                    ),
                ),
            ),
            st.none() | st.integers(0, 80),
        ),
        max_size=6,
    )
)
def test_what_passes_is_understood_by_the_parser(chunks: list[bytes]) -> None:
    data = packet(*chunks)
    try:
        check_packet(data)
    except ProtocolError:
        return
    for parsed in parse_packet(data)[3]:
        bytes(parsed)
        if isinstance(parsed, ReconfigChunk):
            for kind, value in parsed.params:
                if kind in RECONFIG_PARAM_TYPES:
                    RECONFIG_PARAM_TYPES[kind].parse(value)


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    try:
        check_packet(data)
    except ProtocolError:
        assert True


def test_gap_blocks_that_a_receiver_can_have_seen() -> None:
    check_gaps([], 0)
    check_gaps([(2, 2), (4, 9)], 9)


@pytest.mark.parametrize("gaps", [[(0, 1)], [(3, 2)], [(2, 10)], [(2, 3), (3, 4)], [(4, 5), (2, 2)], [(1, 65_535)] * 9])
def test_gap_blocks_that_it_cannot(gaps: list[tuple[int, int]]) -> None:
    with pytest.raises(ProtocolError):
        check_gaps(gaps, 9)


def opening(
    kind: int = 0, label: bytes = b"a", protocol: bytes = b"b", *, sizes: tuple[int, int] | None = None
) -> bytes:
    return struct.pack("!BBHLHH", 3, kind, 0, 0, *(sizes or (len(label), len(protocol)))) + label + protocol


def test_good_requests_to_open_a_channel() -> None:
    for kind in (0, 1, 2, 0x80, 0x81, 0x82):
        check_open(opening(kind))
    check_open(opening(label=b"x" * (MAX_DCEP - 12), protocol=b""))


@pytest.mark.parametrize(
    "message",
    [
        b"\x03",
        opening(3),
        opening(label=b"\xff"),
        opening(protocol=b"\xc3"),
        opening(sizes=(1, 2)),
        opening(sizes=(1, 0)),
        opening(label=b"x" * MAX_DCEP),
    ],
)
def test_bad_requests_to_open_a_channel(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        check_open(message)
