"""What a peer's bytes must look like before aiortc's SCTP parser gets to see them. Pure: bytes in, a verdict out.

aiortc trusts lengths inside a chunk: a parameter that says it is 0 bytes long makes it loop for ever, a chunk without
a body reads as one full of zeros, a short one raises what ends the connection. So each packet is walked once here.
Clauses are those of RFC 9260 unless another is named.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from splitrtc_errors import ProtocolError

__all__ = [
    "MAX_CHUNKS",
    "MAX_DCEP",
    "MAX_ECHO",
    "MAX_REPLIES",
    "check_gaps",
    "check_open",
    "check_packet",
]

MAX_CHUNKS = 64
"""Chunks in one packet; ours and a browser's have a handful."""

MAX_REPLIES = 4
"""Chunks in one packet that each ask for a packet in return, so that small packets do not bring many."""

MAX_ECHO = 1_024
"""Bytes of a heartbeat or a cookie, which go back as they came: with more, the reply would not fit in a datagram."""

MAX_DCEP = 1_024
"""Bytes of a message that opens a channel (RFC 8832), label and protocol included."""

_HEADER: Final = 12
_CHUNK = struct.Struct("!BBH")
_PAIR = struct.Struct("!HH")
_OPEN = struct.Struct("!BBHLHH")

_DATA, _INIT, _INIT_ACK, _SACK, _HEARTBEAT, _HEARTBEAT_ACK, _ABORT, _SHUTDOWN = range(8)
_ERROR, _COOKIE_ECHO, _RECONFIG, _FORWARD_TSN = 9, 10, 130, 192

_FIXED: Final = {
    _DATA: 13,  # at least one byte of user data: section 6.2
    _INIT: 16,
    _INIT_ACK: 16,
    _SACK: 12,
    _SHUTDOWN: 4,
    _COOKIE_ECHO: 1,
    _FORWARD_TSN: 4,
}
"""Least bytes of a chunk's body."""

_PARAMETERS: Final = {_INIT: 16, _INIT_ACK: 16, _HEARTBEAT: 0, _HEARTBEAT_ACK: 0, _ABORT: 0, _ERROR: 0, _RECONFIG: 0}
"""Where in a chunk's body its parameters begin."""

_ANSWERED: Final = {_INIT, _HEARTBEAT, _SHUTDOWN, _COOKIE_ECHO, _RECONFIG}

_RESET_OUTGOING, _RESET_RESPONSE, _ADD_OUTGOING = 13, 16, 17
_COOKIE: Final = 7

_CHANNEL_TYPES: Final = {0x00, 0x01, 0x02, 0x80, 0x81, 0x82}


def check_packet(packet: bytes) -> None:
    """Refuse a packet that aiortc would stumble over. The checksum and the verification tag are left to aiortc.

    Raises:
        ProtocolError: it is cut short, a length in it contradicts another, or it asks for too much.
    """
    position = _HEADER
    chunks = replies = 0
    kinds = set()
    while position + _CHUNK.size <= len(packet):
        kind, _, length = _CHUNK.unpack_from(packet, position)
        if length < _CHUNK.size or position + length > len(packet):
            raise ProtocolError(f"SCTP chunk of {length} bytes, {len(packet) - position} are there")
        if kind != _DATA or length < _CHUNK.size + 13:
            _check_chunk(kind, packet[position + _CHUNK.size : position + length])
        kinds.add(kind)
        chunks += 1
        replies += kind in _ANSWERED
        position += length + -length % 4
    if not chunks:
        raise ProtocolError(f"SCTP packet of {len(packet)} bytes has no chunk")
    if chunks > MAX_CHUNKS or replies > MAX_REPLIES:
        raise ProtocolError(f"SCTP packet has {chunks} chunks, {replies} to be answered")
    if _INIT in kinds and chunks > 1:
        raise ProtocolError("SCTP INIT is not alone in its packet")


def _check_chunk(kind: int, body: bytes) -> None:
    if len(body) < _FIXED.get(kind, 0):
        raise ProtocolError(f"SCTP chunk of type {kind} has {len(body)} bytes, expected {_FIXED[kind]} at least")
    if kind in (_HEARTBEAT, _COOKIE_ECHO) and len(body) > MAX_ECHO:
        raise ProtocolError(
            f"SCTP chunk of type {kind} would bring back {len(body)} bytes, expected {MAX_ECHO} at most"
        )
    if kind == _SACK:
        gaps, duplicates = _PAIR.unpack_from(body, 8)
        if len(body) != 12 + 4 * (gaps + duplicates):
            raise ProtocolError(f"SCTP SACK of {len(body)} bytes with {gaps} gap blocks and {duplicates} duplicates")
    elif kind == _FORWARD_TSN:
        if len(body) % 4:
            raise ProtocolError(f"SCTP FORWARD TSN of {len(body)} bytes")
    elif kind in _PARAMETERS:
        _check_parameters(kind, body[_PARAMETERS[kind] :])


def _check_parameters(chunk: int, body: bytes) -> None:
    position = 0
    while position + _PAIR.size <= len(body):
        kind, length = _PAIR.unpack_from(body, position)
        if length < _PAIR.size or position + length > len(body):
            raise ProtocolError(f"SCTP parameter of {length} bytes, {len(body) - position} are there")
        size = length - _PAIR.size
        if chunk == _INIT_ACK and kind == _COOKIE and size > MAX_ECHO:
            raise ProtocolError(f"SCTP cookie of {size} bytes, expected {MAX_ECHO} at most")
        if chunk == _RECONFIG:
            _check_reconfiguration(kind, size)
        position += length + -length % 4


def _check_reconfiguration(kind: int, size: int) -> None:
    """Parameters of RFC 6525, section 4."""
    least = {_RESET_OUTGOING: 12, _RESET_RESPONSE: 8, _ADD_OUTGOING: 8}.get(kind, 0)
    if size < least or (kind == _RESET_OUTGOING and size % 2):
        raise ProtocolError(f"SCTP reconfiguration of type {kind} with {size} bytes")


def check_gaps(gaps: Sequence[tuple[int, int]], outstanding: int) -> None:
    """Refuse gap blocks that are not ascending, or acknowledge more than the `outstanding` chunks after the first.

    aiortc visits every number in every block, whether or not there was such a chunk.

    Raises:
        ProtocolError: they are not what a receiver of these chunks can have seen.
    """
    end = 0
    for start, following in gaps:
        if not end < start <= following <= outstanding:
            raise ProtocolError(f"SCTP gap block {start} to {following} after {end}, {outstanding} are outstanding")
        end = following


def check_open(message: bytes) -> None:
    """Refuse a DATA_CHANNEL_OPEN (RFC 8832, section 5.1) that aiortc would misread.

    Raises:
        ProtocolError: it is too short or too long, of an unknown type, or its names are not UTF-8.
    """
    if not _OPEN.size <= len(message) <= MAX_DCEP:
        raise ProtocolError(f"request to open a channel of {len(message)} bytes")
    _, kind, _, _, label, protocol = _OPEN.unpack_from(message)
    if kind not in _CHANNEL_TYPES:
        raise ProtocolError(f"request to open a channel of the unknown type {kind}")
    if len(message) != _OPEN.size + label + protocol:
        raise ProtocolError(f"request to open a channel of {len(message)} bytes, for names of {label} and {protocol}")
    try:
        message[_OPEN.size : _OPEN.size + label].decode()
        message[_OPEN.size + label :].decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("request to open a channel whose name is not UTF-8") from error
