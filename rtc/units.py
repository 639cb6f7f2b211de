"""Units: one message on the channel carries one slice of one frame (docs/protocol.md, section 3.1).

Sans-I/O: bytes in, values out, and back. Reading is strict, since these bytes come from a peer: whatever the protocol
does not allow is a `ProtocolError`, and nothing else is ever raised. Writing checks the caller's values and raises
`BadArgument`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from splitrtc_errors import BadArgument, ProtocolError

__all__ = [
    "DEFAULT_UNIT",
    "MAX_AIPS_ID",
    "MAX_FRAME_ID",
    "MAX_SLICES",
    "MAX_TIME_US",
    "MAX_UNIT",
    "UNIT_HEADER_SIZE",
    "Unit",
    "heartbeat_unit",
    "pack_unit",
    "parse_unit",
    "unit_payload_limit",
    "units_of_frame",
]

VERSION = 1
DEFAULT_UNIT = 1_160
"""Bytes of a unit by default: what fits into one SCTP chunk of one packet."""
MAX_UNIT = 65_535
MAX_SLICES = 4_096
MAX_AIPS_ID = 255
MAX_FRAME_ID = 2**32 - 1
MAX_TIME_US = 2**64 - 1

# version, flags, parameter set, length of the optional fields, frame, slice index, slice count, capture time
_HEADER = struct.Struct(">BBBBIHHQ")
UNIT_HEADER_SIZE = _HEADER.size

_INTRA = 0x01
_LAST = 0x02
_PARITY = 0x04
_HEARTBEAT = 0x08
_KNOWN_FLAGS = _INTRA | _LAST | _PARITY | _HEARTBEAT

_FIELD_REFERENCE = 1
_REFERENCE = struct.Struct(">BBI")  # type, length, frame id
_REFERENCE_LENGTH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One slice of one frame, or a heartbeat.

    `aips_id` is 1-255, `frame_id` 1 to 2^32 - 1, `index` below `count`, `count` 1 to 4 096, `capture_us` in
    microseconds of the UE's monotonic clock, `reference` the frame that this one is coded against (an earlier one,
    never with `intra`).
    A heartbeat has zero in all of these but `capture_us`, which is then the sender's own clock, and no payload.

    A `payload` that came from `parse_unit` is a view into the message.
    """

    aips_id: int
    frame_id: int
    index: int
    count: int
    capture_us: int
    payload: bytes | memoryview = b""
    intra: bool = False
    reference: int | None = None
    parity: bool = False
    heartbeat: bool = False

    @property
    def last(self) -> bool:
        """Whether this is the frame's last slice. Not a field of its own: the protocol ties the flag to the index."""
        return self.index == self.count - 1


def parse_unit(data: bytes) -> Unit:
    """Read one message. The payload is a view, not a copy. Raises `ProtocolError` for anything malformed."""
    size = len(data)
    if not UNIT_HEADER_SIZE <= size <= MAX_UNIT:
        raise ProtocolError(f"a unit has {UNIT_HEADER_SIZE} to {MAX_UNIT} bytes, this one has {size}")
    version, flags, aips_id, fields_size, frame_id, index, count, capture_us = _HEADER.unpack_from(data)
    if version != VERSION:
        raise ProtocolError(f"unit of version {version}, expected {VERSION}")
    if flags & ~_KNOWN_FLAGS:
        raise ProtocolError(f"unit with unknown flags 0x{flags:02x}")
    start = UNIT_HEADER_SIZE + fields_size
    if start > size:
        raise ProtocolError(f"unit with {fields_size} bytes of optional fields ends after {size} bytes")
    reference = _read_reference(data[UNIT_HEADER_SIZE:start]) if fields_size else None
    if flags & _HEARTBEAT:
        if flags != _HEARTBEAT or aips_id or frame_id or index or count or reference is not None or start != size:
            raise ProtocolError("heartbeat unit with more than a time")
    else:
        if not aips_id or not frame_id:
            raise ProtocolError(f"unit of parameter set {aips_id}, frame {frame_id}: both count from 1")
        if not index < count <= MAX_SLICES:
            raise ProtocolError(f"unit with slice {index} of {count}, expected at most {MAX_SLICES} slices")
        if bool(flags & _LAST) != (index == count - 1):
            raise ProtocolError(f"unit with slice {index} of {count} has a wrong last-slice flag")
        if reference is not None and (flags & _INTRA or not 0 < reference < frame_id):
            raise ProtocolError(f"unit of frame {frame_id} with a wrong reference {reference}, flags 0x{flags:02x}")
    return Unit(
        aips_id=aips_id,
        frame_id=frame_id,
        index=index,
        count=count,
        capture_us=capture_us,
        payload=memoryview(data)[start:],
        intra=bool(flags & _INTRA),
        reference=reference,
        parity=bool(flags & _PARITY),
        heartbeat=bool(flags & _HEARTBEAT),
    )


def _read_reference(fields: bytes) -> int | None:
    """The reference frame id among the optional fields; those of unknown types are skipped."""
    reference: int | None = None
    position = 0
    while position < len(fields):
        value = position + 2
        if value > len(fields) or value + fields[position + 1] > len(fields):
            raise ProtocolError("unit with a truncated optional field")
        if fields[position] == _FIELD_REFERENCE:
            if fields[position + 1] != _REFERENCE_LENGTH or reference is not None:
                raise ProtocolError("unit with a malformed or repeated reference field")
            reference = int.from_bytes(fields[value : value + _REFERENCE_LENGTH], "big")
        position = value + fields[position + 1]
    return reference


def pack_unit(unit: Unit) -> bytes:
    """Write one message. Raises `BadArgument` for a value outside its range."""
    if unit.heartbeat:
        if unit != Unit(aips_id=0, frame_id=0, index=0, count=0, capture_us=unit.capture_us, heartbeat=True):
            raise BadArgument("a heartbeat unit carries a time and nothing else")
        return heartbeat_unit(unit.capture_us)
    _check_frame(unit.aips_id, unit.frame_id, unit.capture_us, unit.count, unit.intra, unit.reference)
    if not 0 <= unit.index < unit.count:
        raise BadArgument(f"slice {unit.index} of {unit.count}: the index is 0 to {unit.count - 1}")
    flags = unit.intra * _INTRA | unit.last * _LAST | unit.parity * _PARITY
    fields = _fields(unit.reference)
    header = _HEADER.pack(
        VERSION, flags, unit.aips_id, len(fields), unit.frame_id, unit.index, unit.count, unit.capture_us
    )
    return _checked_size(header + fields + unit.payload)


def units_of_frame(
    aips_id: int,
    frame_id: int,
    capture_us: int,
    slices: Sequence[bytes | memoryview],
    intra: bool = True,
    reference: int | None = None,
) -> list[bytes]:
    """Write all messages of one frame, in order. Raises `BadArgument` for a value outside its range.

    The slices' sizes are the encoder's choice (`unit_payload_limit`); only `MAX_UNIT` is enforced here.
    """
    count = len(slices)
    _check_frame(aips_id, frame_id, capture_us, count, intra, reference)
    fields = _fields(reference)
    flags = intra * _INTRA
    units = []
    for index, payload in enumerate(slices):
        if index == count - 1:
            flags |= _LAST
        header = _HEADER.pack(VERSION, flags, aips_id, len(fields), frame_id, index, count, capture_us)
        units.append(_checked_size(header + fields + payload))
    return units


def heartbeat_unit(now_us: int) -> bytes:
    """Write a heartbeat; `now_us` is the sender's monotonic clock in microseconds."""
    if not 0 <= now_us <= MAX_TIME_US:
        raise BadArgument(f"time {now_us}: 0 to 2^64 - 1 microseconds")
    return _HEADER.pack(VERSION, _HEARTBEAT, 0, 0, 0, 0, 0, now_us)


def unit_payload_limit(unit_limit: int = DEFAULT_UNIT, reference: bool = False) -> int:
    """Bytes left for the slice in a unit of at most `unit_limit` bytes, with or without a reference frame id."""
    limit = unit_limit - UNIT_HEADER_SIZE - reference * _REFERENCE.size
    if limit < 1 or unit_limit > MAX_UNIT:
        raise BadArgument(f"unit limit {unit_limit}: at least one byte of payload, at most {MAX_UNIT} bytes in all")
    return limit


def _fields(reference: int | None) -> bytes:
    return b"" if reference is None else _REFERENCE.pack(_FIELD_REFERENCE, _REFERENCE_LENGTH, reference)


def _check_frame(aips_id: int, frame_id: int, capture_us: int, count: int, intra: bool, reference: int | None) -> None:
    if not 1 <= aips_id <= MAX_AIPS_ID:
        raise BadArgument(f"parameter set {aips_id}: 1 to {MAX_AIPS_ID}")
    if not 1 <= frame_id <= MAX_FRAME_ID:
        raise BadArgument(f"frame {frame_id}: 1 to {MAX_FRAME_ID}")
    if not 0 <= capture_us <= MAX_TIME_US:
        raise BadArgument(f"capture time {capture_us}: 0 to 2^64 - 1 microseconds")
    if not 1 <= count <= MAX_SLICES:
        raise BadArgument(f"{count} slices: 1 to {MAX_SLICES}")
    if reference is not None and (intra or not 1 <= reference < frame_id):
        raise BadArgument(f"reference {reference} of frame {frame_id}: an earlier frame, and not for an intra frame")


def _checked_size(unit: bytes) -> bytes:
    if len(unit) > MAX_UNIT:
        raise BadArgument(f"a unit of {len(unit)} bytes: at most {MAX_UNIT}")
    return unit
