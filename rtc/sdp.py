"""Data channels in the text of a session description (RFC 8864): `a=dcmap` and `a=dcsa`.

WebRTC stacks neither write nor keep these lines, so they are added to the text that is sent and read from the text that
arrived. The edited text is for the peer alone, never for one's own `setLocalDescription`.

Reading raises `ProtocolError` and nothing else; making a value or adding lines raises `BadArgument`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from splitrtc_errors import BadArgument, ProtocolError

__all__ = [
    "MAX_CHANNELS",
    "MAX_CHANNEL_ATTRIBUTES",
    "MAX_LINE",
    "MAX_SDP",
    "MAX_STREAM_ID",
    "ChannelAttribute",
    "ChannelMap",
    "add_channel_attributes",
    "read_channel_attributes",
]

MAX_SDP = 128 * 1024
"""Bytes of a whole description."""
MAX_LINE = 2_048
"""Bytes of a dcmap or dcsa line, its line ending not counted."""
MAX_CHANNELS = 64
MAX_CHANNEL_ATTRIBUTES = 64
MAX_STREAM_ID = 1_023
MAX_RELIABILITY = 2**32 - 1
MAX_PRIORITY = 2**16 - 1

_MAP = "a=dcmap:"
_ATTRIBUTE = "a=dcsa:"
# The second form of the protocol is ICE-TCP's (RFC 8841, section 4).
_DATA_CHANNELS = re.compile(r"m=application [0-9]+ (?:UDP|TCP)/DTLS/SCTP webrtc-datachannel")
_STREAM_ID = re.compile(r"[0-9]{1,5}")
_INTEGER = re.compile(r"0|[1-9][0-9]{0,9}")
_OPTION = re.compile(r'([A-Za-z0-9-]+)=(?:"((?:[ !#$&-~]|%[0-9A-Fa-f]{2})*)"|([^;"\x00-\x20\x7f-\U0010ffff]+))')
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`{|}~0-9A-Za-z]+")  # RFC 8866, section 9: a name
_FORBIDDEN_IN_VALUE = re.compile(r"[\0\r\n\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ChannelMap:
    """One data channel: the value of an `a=dcmap` line (RFC 8864, section 5.1).

    `max_retr` and `max_time` (milliseconds) exclude each other; without either the channel is reliable. None stands for
    an option that is absent.
    """

    stream_id: int
    label: str | None = None
    subprotocol: str | None = None
    ordered: bool = True
    max_retr: int | None = None
    max_time: int | None = None
    priority: int | None = None

    def __post_init__(self) -> None:
        _check_stream_id(self.stream_id)
        if self.max_retr is not None and self.max_time is not None:
            raise BadArgument(f"channel {self.stream_id} with both max-retr and max-time")
        for value, limit in (
            (self.max_retr, MAX_RELIABILITY),
            (self.max_time, MAX_RELIABILITY),
            (self.priority, MAX_PRIORITY),
        ):
            if value is not None and not 0 <= value <= limit:
                raise BadArgument(f"channel {self.stream_id}: {value} is not within 0 to {limit}")

    @classmethod
    def parse(cls, value: str) -> ChannelMap:
        """Read what stands after `a=dcmap:`. Unknown options are passed over. Raises `ProtocolError`."""
        stream_id, separator, options = value.partition(" ")
        if not _STREAM_ID.fullmatch(stream_id):
            raise ProtocolError(f"dcmap with stream id {stream_id[:16]!r}")
        fields = _read_options(options) if separator else {}
        try:
            return cls(int(stream_id), **fields)
        except BadArgument as error:
            raise ProtocolError(f"dcmap: {error}") from error

    def format(self) -> str:
        """Write what stands after `a=dcmap:`. Raises `BadArgument` for text that is not Unicode."""
        options = []
        if self.subprotocol is not None:
            options.append(f'subprotocol="{_escape(self.subprotocol)}"')
        if self.label is not None:
            options.append(f'label="{_escape(self.label)}"')
        if not self.ordered:
            options.append("ordered=false")
        if self.max_retr is not None:
            options.append(f"max-retr={self.max_retr}")
        if self.max_time is not None:
            options.append(f"max-time={self.max_time}")
        if self.priority is not None:
            options.append(f"priority={self.priority}")
        return f"{self.stream_id} {';'.join(options)}" if options else str(self.stream_id)


@dataclass(frozen=True, slots=True)
class ChannelAttribute:
    """An attribute of one data channel: the value of an `a=dcsa` line (RFC 8864, section 5.2).

    `name` is a token, thus without a colon; an attribute without a value has an empty `value`.
    """

    stream_id: int
    name: str
    value: str = ""

    def __post_init__(self) -> None:
        _check_stream_id(self.stream_id)
        if not _TOKEN.fullmatch(self.name):
            raise BadArgument(f"attribute name {self.name[:64]!r}: a token as in RFC 8866, without a colon")
        if _FORBIDDEN_IN_VALUE.search(self.value):
            raise BadArgument(f"value of attribute {self.name}: no line ends, no NUL, only Unicode")

    @classmethod
    def parse(cls, value: str) -> ChannelAttribute:
        """Read what stands after `a=dcsa:`. Raises `ProtocolError`."""
        stream_id, _, attribute = value.partition(" ")
        if not _STREAM_ID.fullmatch(stream_id):
            raise ProtocolError(f"dcsa with stream id {stream_id[:16]!r}")
        name, colon, text = attribute.partition(":")
        if colon and not text:
            raise ProtocolError(f"dcsa attribute {name[:64]!r} with a colon and no value")
        try:
            return cls(int(stream_id), name, text)
        except BadArgument as error:
            raise ProtocolError(f"dcsa: {error}") from error

    def format(self) -> str:
        """Write what stands after `a=dcsa:`."""
        attribute = f"{self.name}:{self.value}" if self.value else self.name
        return f"{self.stream_id} {attribute}"


def add_channel_attributes(sdp: str, maps: Iterable[ChannelMap], attributes: Iterable[ChannelAttribute] = ()) -> str:
    """Add the lines at the end of the data-channel section, with the line endings that the description uses.

    Raises `BadArgument` if the description has not exactly one such section, or if the result would be one that
    `read_channel_attributes` refuses.
    """
    lines = [_MAP + channel.format() for channel in maps]
    lines += [_ATTRIBUTE + attribute.format() for attribute in attributes]
    newline = "\r\n" if "\r\n" in sdp else "\n"
    try:
        before = _lines(sdp)
        _, end = _section(before)
        edited = newline.join([*before[:end], *lines, *before[end:], ""])
        read_channel_attributes(edited)
    except ProtocolError as error:
        raise BadArgument(f"cannot add these channels to the description: {error}") from error
    return edited


def read_channel_attributes(sdp: str) -> tuple[list[ChannelMap], list[ChannelAttribute]]:
    """Read the data channels and their attributes, each in the order of the text. Raises `ProtocolError`.

    Only the lines of the one data-channel section count; in other places they mean nothing and are passed over. No
    channel at all is not an error here.
    """
    lines = _lines(sdp)
    start, end = _section(lines)
    maps: list[ChannelMap] = []
    attributes: list[ChannelAttribute] = []
    for line in lines[start:end]:
        if not line.startswith((_MAP, _ATTRIBUTE)):
            continue
        if len(line.encode()) > MAX_LINE:
            raise ProtocolError(f"a dcmap or dcsa line of {len(line.encode())} bytes, at most {MAX_LINE}")
        if line.startswith(_MAP):
            maps.append(ChannelMap.parse(line[len(_MAP) :]))
        else:
            attributes.append(ChannelAttribute.parse(line[len(_ATTRIBUTE) :]))
        if len(maps) > MAX_CHANNELS or len(attributes) > MAX_CHANNEL_ATTRIBUTES:
            raise ProtocolError(f"more than {MAX_CHANNELS} dcmap or {MAX_CHANNEL_ATTRIBUTES} dcsa lines")
    ids = {channel.stream_id for channel in maps}
    if len(ids) != len(maps):
        raise ProtocolError("two dcmap lines with one stream id")
    for attribute in attributes:
        if attribute.stream_id not in ids:
            raise ProtocolError(f"dcsa for channel {attribute.stream_id}, which no dcmap line names")
    return maps, attributes


def _lines(sdp: str) -> list[str]:
    """The description's lines without their endings, CR LF or LF. `str.splitlines` would also split elsewhere."""
    try:
        size = len(sdp.encode()) if len(sdp) <= MAX_SDP else len(sdp)
    except UnicodeEncodeError as error:
        raise ProtocolError(f"the session description is not Unicode text: {error.reason}") from error
    if size > MAX_SDP:
        raise ProtocolError(f"a session description of {size} bytes or more, at most {MAX_SDP}")
    return [line.removesuffix("\r") for line in sdp.removesuffix("\n").split("\n")]


def _section(lines: Sequence[str]) -> tuple[int, int]:
    """First line after the data-channel section's `m=` line, and first line after the section."""
    media = [number for number, line in enumerate(lines) if line.startswith("m=")]
    sections = [number for number in media if _DATA_CHANNELS.fullmatch(lines[number])]
    if len(sections) != 1:
        raise ProtocolError(f"the session description has {len(sections)} data-channel sections, expected one")
    end = next((number for number in media if number > sections[0]), len(lines))
    return sections[0] + 1, end


def _read_options(text: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    position = 0
    while True:
        match = _OPTION.match(text, position)
        if match is None:
            raise ProtocolError(f"dcmap option {text[position : position + 32]!r}")
        name, quoted, plain = match[1].lower(), match[2], match[3]  # literals of an ABNF ignore case
        field = name.replace("-", "_")
        if field in fields:
            raise ProtocolError(f"dcmap option {name} twice")
        if name in ("label", "subprotocol"):
            fields[field] = _unescape(name, quoted)
        elif name == "ordered":
            fields[field] = _boolean(name, plain)
        elif name in ("max-retr", "max-time", "priority"):
            fields[field] = _integer(name, plain)
        position = match.end()
        if position == len(text):
            return fields
        if text[position] != ";":
            raise ProtocolError(f"dcmap option {name} continues with {text[position : position + 32]!r}")
        position += 1


def _boolean(name: str, text: str | None) -> bool:
    if text is None or text.lower() not in ("true", "false"):
        raise ProtocolError(f"dcmap option {name}: expected true or false")
    return text.lower() == "true"


def _integer(name: str, text: str | None) -> int:
    if text is None or not _INTEGER.fullmatch(text):
        raise ProtocolError(f"dcmap option {name}: expected a decimal number")
    return int(text)


def _unescape(name: str, text: str | None) -> str:
    if text is None:
        raise ProtocolError(f"dcmap option {name}: expected a quoted string")
    try:
        return _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), text.encode()).decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"dcmap option {name} is not UTF-8") from error


def _escape(text: str) -> str:
    """Percent-escape what a quoted string cannot hold: quotes, percent signs, controls and all bytes beyond ASCII."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise BadArgument(f"{text!r} is not Unicode text") from error
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"%' else f"%{byte:02X}" for byte in data)


def _check_stream_id(stream_id: int) -> None:
    if not 0 <= stream_id <= MAX_STREAM_ID:
        raise BadArgument(f"stream id {stream_id}: 0 to {MAX_STREAM_ID}")
