"""Results: the edge's answer to one frame, which is also its acknowledgement (docs/protocol.md, section 3.2).

Sans-I/O like `rtc.units`: reading raises `ProtocolError` and nothing else, writing `BadArgument`. The output stays
bytes here; its kind says who can read it.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from splitrtc_errors import BadArgument, ProtocolError

from .units import MAX_FRAME_ID, MAX_SLICES, MAX_TIME_US

__all__ = [
    "HISTORY_FRAMES",
    "MAX_DURATION_US",
    "MAX_RESULT",
    "OUTPUT_DETECTIONS",
    "OUTPUT_NONE",
    "OUTPUT_TENSORS",
    "RESULT_HEADER_SIZE",
    "Result",
    "Status",
    "bitmap_of",
    "heartbeat_result",
    "is_result",
    "pack_result",
    "parse_result",
]

VERSION = 1
MAX_RESULT = 65_535
MAX_DURATION_US = 2**32 - 1
"""What a longer duration is written as."""
HISTORY_FRAMES = 32
OUTPUT_NONE = 0
OUTPUT_DETECTIONS = 1
OUTPUT_TENSORS = 2
"""The output follows in units of the same frame id, under a ``down`` parameter set; the result itself has none."""

# version, flags, status, output kind, frame, capture time, queue, decode, tail, post, history, slices, concealed share
_HEADER = struct.Struct(">BBBBIQIIIIIHH")
RESULT_HEADER_SIZE = _HEADER.size

_RESULT = 0x80
_HEARTBEAT = 0x08
_DECODED = 0x01
_SHARE_SCALE = 65_535


class Status(enum.IntEnum):
    """What became of the frame."""

    OK = 0
    """All slices were there."""
    INCOMPLETE = 1
    """The output was computed with concealed slices."""
    SUPERSEDED = 2
    """A newer frame took its place."""
    LATE = 3
    """Its time was over."""
    ERROR = 4
    """The edge could not process it."""

    @property
    def has_output(self) -> bool:
        """Whether a result of this status may carry an output."""
        return self <= Status.INCOMPLETE


_STATUSES = tuple(Status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The answer to one frame, or a heartbeat (all fields zero or empty).

    `capture_us` is the frame's, echoed; the durations are the edge's own, in microseconds. `history` has bit i set if
    frame (`frame_id` - 1 - i) was received complete. `slices` is the frame's slice count, `received` the bitmap of
    those that came (see `bitmap_of`), `concealed` the share of elements that did not (0 to 1; on the wire in steps of
    1/65535, rounded up). `decoded` says of a frame without output that it was decoded all the same. An `output` that
    came from `parse_result` is a view into the message.
    """

    status: Status
    frame_id: int
    capture_us: int
    slices: int
    received: bytes
    queue_us: int = 0
    decode_us: int = 0
    tail_us: int = 0
    post_us: int = 0
    history: int = 0
    concealed: float = 0.0
    output_kind: int = OUTPUT_NONE
    output: bytes | memoryview = b""
    heartbeat: bool = False
    decoded: bool = False

    @property
    def taken_in(self) -> bool:
        """Whether the decoder has taken the frame in, so that later ones may be predicted from it."""
        return self.decoded or self.status.has_output

    def received_flags(self) -> list[bool]:
        """One entry per slice of the frame: whether it was received."""
        bits = int.from_bytes(self.received, "little")
        return [bool(bits >> index & 1) for index in range(self.slices)]

    @property
    def received_count(self) -> int:
        """How many slices of the frame were received."""
        return int.from_bytes(self.received, "little").bit_count()

    def was_complete(self, frame_id: int) -> bool | None:
        """Whether the history says that an earlier frame was received complete; None if it does not reach that far."""
        distance = self.frame_id - 1 - frame_id
        if frame_id < 1 or not 0 <= distance < HISTORY_FRAMES:
            return None
        return bool(self.history >> distance & 1)


def bitmap_of(received: Iterable[bool]) -> bytes:
    """The bitmap of received slices: slice i is bit (i mod 8) of byte (i div 8), unused bits are zero."""
    flags = list(received)
    bits = sum(1 << index for index, flag in enumerate(flags) if flag)
    return bits.to_bytes(_bitmap_size(len(flags)), "little")


def is_result(data: bytes) -> bool:
    """Whether a message on the result channel is a result; otherwise it is a unit. Says nothing of its validity."""
    return len(data) > 1 and data[1] & _RESULT != 0


def parse_result(data: bytes) -> Result:
    """Read one message. The output is a view, not a copy. Raises `ProtocolError` for anything malformed.

    Output kinds are passed on as they are: a reader that does not know one still has the acknowledgement.
    """
    size = len(data)
    if not RESULT_HEADER_SIZE <= size <= MAX_RESULT:
        raise ProtocolError(f"a result has {RESULT_HEADER_SIZE} to {MAX_RESULT} bytes, this one has {size}")
    (version, flags, code, kind, frame_id, capture_us, queue_us, decode_us, tail_us, post_us, history, count, share) = (
        _HEADER.unpack_from(data)
    )
    if version != VERSION:
        raise ProtocolError(f"result of version {version}, expected {VERSION}")
    if flags == _RESULT | _HEARTBEAT:
        if data != _HEARTBEAT_RESULT:
            raise ProtocolError("heartbeat result with content")
        return _HEARTBEAT_VALUE
    if flags & ~_DECODED != _RESULT:
        raise ProtocolError(f"result with flags 0x{flags:02x}, expected 0x{_RESULT:02x} or 0x{_RESULT | _DECODED:02x}")
    if code >= len(_STATUSES):
        raise ProtocolError(f"result with unknown status {code}")
    if not frame_id:
        raise ProtocolError("result for frame 0: frames count from 1")
    if history >> frame_id - 1:
        raise ProtocolError(f"result for frame {frame_id} whose history reaches before frame 1: 0x{history:08x}")
    if not 1 <= count <= MAX_SLICES:
        raise ProtocolError(f"result for a frame of {count} slices, expected 1 to {MAX_SLICES}")
    start = RESULT_HEADER_SIZE + _bitmap_size(count)
    if size < start:
        raise ProtocolError(f"result with a bitmap of {count} slices has {start} bytes or more, this one has {size}")
    received = data[RESULT_HEADER_SIZE:start]
    status = _STATUSES[code]
    decoded = bool(flags & _DECODED)
    problem = _problem(status, count, received, kind, size - start, decoded)
    if problem:
        raise ProtocolError(f"result for frame {frame_id}: {problem}")
    return Result(
        status=status,
        frame_id=frame_id,
        capture_us=capture_us,
        slices=count,
        received=received,
        queue_us=queue_us,
        decode_us=decode_us,
        tail_us=tail_us,
        post_us=post_us,
        history=history,
        concealed=share / _SHARE_SCALE,
        output_kind=kind,
        output=memoryview(data)[start:],
        decoded=decoded,
    )


def pack_result(result: Result) -> bytes:
    """Write one message. Raises `BadArgument` for a value outside its range.

    Longer durations than `MAX_DURATION_US` are written as that.
    """
    if result.heartbeat:
        if result != _HEARTBEAT_VALUE:
            raise BadArgument("a heartbeat result carries nothing")
        return _HEARTBEAT_RESULT
    frame_id, count = result.frame_id, result.slices
    if not 1 <= frame_id <= MAX_FRAME_ID:
        raise BadArgument(f"frame {frame_id}: 1 to {MAX_FRAME_ID}")
    if not 0 <= result.capture_us <= MAX_TIME_US:
        raise BadArgument(f"capture time {result.capture_us}: 0 to 2^64 - 1 microseconds")
    if not 0 <= result.history < 1 << min(frame_id - 1, HISTORY_FRAMES):
        raise BadArgument(
            f"history {result.history:#x} of frame {frame_id}: the {HISTORY_FRAMES} frames before, from 1"
        )
    if not 1 <= count <= MAX_SLICES or len(result.received) != _bitmap_size(count):
        raise BadArgument(f"{count} slices in a bitmap of {len(result.received)} bytes: 1 to {MAX_SLICES}, 8 in a byte")
    if not 0.0 <= result.concealed <= 1.0:
        raise BadArgument(f"concealed share {result.concealed}: 0 to 1")
    if not 0 <= result.output_kind <= 255:
        raise BadArgument(f"output kind {result.output_kind}: 0 to 255")
    problem = _problem(result.status, count, result.received, result.output_kind, len(result.output), result.decoded)
    if problem:
        raise BadArgument(f"result for frame {frame_id}: {problem}")
    durations = (result.queue_us, result.decode_us, result.tail_us, result.post_us)
    if min(durations) < 0:
        raise BadArgument(f"durations {durations}: microseconds, not negative")
    header = _HEADER.pack(
        VERSION,
        _RESULT | result.decoded * _DECODED,
        result.status,
        result.output_kind,
        frame_id,
        result.capture_us,
        *(min(duration, MAX_DURATION_US) for duration in durations),
        result.history,
        count,
        math.ceil(result.concealed * _SHARE_SCALE),
    )
    message = header + result.received + result.output
    if len(message) > MAX_RESULT:
        raise BadArgument(f"a result of {len(message)} bytes: at most {MAX_RESULT}")
    return message


def heartbeat_result() -> bytes:
    """The heartbeat of the result channel."""
    return _HEARTBEAT_RESULT


def _problem(status: Status, count: int, received: bytes, kind: int, output_size: int, decoded: bool) -> str | None:
    """What contradicts itself in a result, for reader and writer alike."""
    bits = int.from_bytes(received, "little")
    if bits >> count:
        return f"bitmap with bits beyond slice {count - 1}"
    if status is Status.OK and bits.bit_count() != count:
        return f"status ok, but {count - bits.bit_count()} of {count} slices missing"
    if kind != OUTPUT_NONE and not status.has_output:
        return f"status {status.name.lower()} with an output"
    if decoded and status.has_output:
        return f"status {status.name.lower()} says by itself that the frame was decoded"
    if kind in (OUTPUT_NONE, OUTPUT_TENSORS) and output_size:
        return f"{output_size} bytes of output of {'no kind' if kind == OUTPUT_NONE else 'a kind that comes in units'}"
    return None


def _bitmap_size(count: int) -> int:
    return (count + 7) // 8


_HEARTBEAT_RESULT = bytes([VERSION, _RESULT | _HEARTBEAT]) + bytes(RESULT_HEADER_SIZE - 2)
_HEARTBEAT_VALUE = Result(status=Status.OK, frame_id=0, capture_us=0, slices=0, received=b"", heartbeat=True)
