"""What an emulated link does to packets, and the text in which a user says it: `rtt=40,loss=1%,rate=5M`.

The keys of the text, separated by commas. All but `rtt` are for each of the two directions.

=========  ==========================================================================================================
rtt        milliseconds there and back (half of it each way); with a unit also `40ms`, `0.04s`
delay      milliseconds one way, instead of `rtt`
jitter     milliseconds by which a packet comes later at most; it never makes packets overtake each other
loss       share of packets lost: `1%` or `0.01`
burst      mean number of packets lost in a row (Gilbert-Elliott); without it each is lost independently
reorder    share of packets held back while later ones overtake
duplicate  share of packets sent twice
corrupt    share of packets with one bit turned over
rate       bits per second, headers included: `500k`, `5M`, `1G`
queue      what may wait for a link with a rate: `100` or `100ms`, `64packets`, `65536bytes`; the rest is dropped
outage     `START-END` in seconds since the link's start, in which all is lost; may be given several times
seed       integer that fixes all that is random
trace      file with changes: lines `SECONDS KEY=VALUE,...`; `#` begins a comment; other keys stay as they were
=========  ==========================================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal

from splitrtc_errors import BadArgument

__all__ = [
    "MAX_CHANGES",
    "MAX_DELAY",
    "MAX_OUTAGES",
    "MAX_TRACE",
    "LinkSettings",
    "LinkTrace",
    "QueueLimit",
    "parse_link",
]

MAX_DELAY = 10.0
"""Seconds one way; also of jitter, and of waiting in the queue."""
MAX_TIME = 1e6
"""Seconds since the link's start, of outages and changes."""
MAX_OUTAGES = 256
MAX_TRACE = 1024 * 1024
"""Bytes of a trace file."""
MAX_CHANGES = 20_000
MAX_TEXT = 8_192
"""Characters of settings."""
MIN_RATE = 1_000.0
"""Bits per second. With it a packet takes seconds, which is as good as standing still."""
MAX_RATE = 1e12
MAX_BURST = 10_000.0
MAX_QUEUE_PACKETS = 10_000
MIN_QUEUE_BYTES = 1_500
"""A smaller queue would hold back the larger packets for ever."""
MAX_QUEUE_BYTES = 16 * 1024 * 1024
MAX_SEED = 2**63 - 1

QueueUnit = Literal["ms", "packets", "bytes"]

_QUEUE_RANGES: Final[dict[QueueUnit, tuple[float, float]]] = {
    "ms": (0, MAX_DELAY * 1_000),
    "packets": (1, MAX_QUEUE_PACKETS),
    "bytes": (MIN_QUEUE_BYTES, MAX_QUEUE_BYTES),
}


def _check(name: str, value: float, low: float, high: float) -> None:
    # Written so that a NaN fails.
    if not low <= value <= high:
        raise BadArgument(f"link {name} of {value:g}, expected {low:g} to {high:g}")


@dataclass(frozen=True, slots=True)
class QueueLimit:
    """How much may wait: milliseconds, or packets or bytes including the packet that is being sent."""

    amount: float = 100.0
    unit: QueueUnit = "ms"

    def __post_init__(self) -> None:
        if self.unit not in _QUEUE_RANGES:
            raise BadArgument(f"link queue in {self.unit!r}, expected ms, packets or bytes")
        _check(f"queue in {self.unit}", self.amount, *_QUEUE_RANGES[self.unit])


@dataclass(frozen=True, slots=True)
class Change:
    """Settings, as (field, value), that hold from `at` seconds after the link's start on."""

    at: float
    values: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class LinkTrace:
    """How a link changes over time."""

    name: str
    changes: tuple[Change, ...]

    @classmethod
    def read(cls, path: str) -> LinkTrace:
        """Read a trace from a file. Raises `BadArgument`."""
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_TRACE + 1)
            text = data.decode()
        except (OSError, ValueError) as error:
            raise BadArgument(f"trace {path}: cannot be read as text ({error})") from error
        if len(data) > MAX_TRACE:
            raise BadArgument(f"trace {path}: larger than {MAX_TRACE} bytes")
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, name: str) -> LinkTrace:
        """Read a trace from its text; `name` is for messages and for `LinkSettings.format`. Raises `BadArgument`."""
        changes: list[Change] = []
        for number, line in enumerate(text.splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            try:
                if len(words) != 2:
                    raise BadArgument("expected SECONDS KEY=VALUE,...")
                at = _seconds("time", words[0])
                if changes and at <= changes[-1].at:
                    raise BadArgument(f"{words[0]} s does not come after {changes[-1].at:g} s")
                changes.append(Change(at, tuple(_read(words[1], _CHANGING).items())))
            except BadArgument as error:
                raise BadArgument(f"trace {name}, line {number}: {error}") from error
        if not 0 < len(changes) <= MAX_CHANGES:
            raise BadArgument(f"trace {name}: {len(changes)} changes, expected 1 to {MAX_CHANGES}")
        return cls(name, tuple(changes))


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """What a link does to packets, in each direction. Seconds, shares of 1, bits per second. Without any: nothing.

    Raises `BadArgument` for a value out of range.
    """

    delay: float = 0.0
    """Seconds one way."""
    jitter: float = 0.0
    """A packet comes later by up to this many seconds, evenly distributed, but never before an earlier one."""
    loss: float = 0.0
    burst: float | None = None
    """Mean number of packets lost in a row; None: each is lost independently of the others."""
    reorder: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    rate: float | None = None
    """Bits per second; None: as fast as they come."""
    queue: QueueLimit = QueueLimit()
    outages: tuple[tuple[float, float], ...] = ()
    """From, and until before, which second since the link's start all that leaves the queue is lost."""
    seed: int = 0
    trace: LinkTrace | None = None

    def __post_init__(self) -> None:
        _check("delay", self.delay, 0, MAX_DELAY)
        _check("jitter", self.jitter, 0, MAX_DELAY)
        for name in ("loss", "reorder", "duplicate", "corrupt"):
            _check(name, getattr(self, name), 0, 1)
        if self.rate is not None:
            _check("rate", self.rate, MIN_RATE, MAX_RATE)
        if self.burst is not None:
            _check("burst", self.burst, 1, MAX_BURST)
            # What is between the bursts is at least one packet.
            if self.loss > (most := self.burst / (self.burst + 1)):
                raise BadArgument(
                    f"link loss of {self.loss:.4%} in bursts of {self.burst:g} packets, expected at most {most:.4%}"
                )
        _check("seed", self.seed, 0, MAX_SEED)
        if len(self.outages) > MAX_OUTAGES:
            raise BadArgument(f"link with {len(self.outages)} outages, expected at most {MAX_OUTAGES}")
        last = 0.0
        for start, end in self.outages:
            if not last <= start < end <= MAX_TIME:
                raise BadArgument(f"link outage from {start:g} to {end:g} s, expected START before END, in order")
            last = end
        self.steps()

    def steps(self) -> list[tuple[float, LinkSettings]]:
        """From which second on which settings hold, in order: these at first, then the trace's changes."""
        current = replace(self, trace=None) if self.trace is not None else self
        steps = [(0.0, current)]
        for change in self.trace.changes if self.trace is not None else ():
            try:
                current = replace(current, **dict(change.values))
            except BadArgument as error:
                raise BadArgument(f"trace, from {change.at:g} s on: {error}") from error
            steps.append((change.at, current))
        return steps

    def chance_of_loss(self, after_loss: bool) -> float:
        """How probable it is that a packet is lost, given whether the one before was.

        With `burst` this is the Gilbert-Elliott model whose good state loses nothing and whose bad state loses all.
        """
        if self.burst is None:
            return self.loss
        if after_loss:
            return 1 - 1 / self.burst
        return self.loss / (self.burst * (1 - self.loss))

    def format(self) -> str:
        """The text from which `parse_link` makes these settings."""
        parts = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            match field.name:
                case "delay":
                    parts.append(f"rtt={_decimal(value, 2_000)}")
                case "jitter":
                    parts.append(f"jitter={_decimal(value, 1_000)}")
                case "loss" | "reorder" | "duplicate" | "corrupt":
                    parts.append(f"{field.name}={_decimal(value, 100)}%")
                case "queue":
                    parts.append(f"queue={_decimal(value.amount)}{value.unit}")
                case "outages":
                    parts += [f"outage={_decimal(start)}-{_decimal(end)}" for start, end in value]
                case "trace":
                    parts.append(f"trace={value.name}")
                case name:
                    parts.append(f"{name}={_decimal(value)}")
        return ",".join(parts) or "rtt=0"


def parse_link(text: str) -> LinkSettings:
    """Read settings such as `rtt=40,loss=1%,rate=5M`; the module's description lists the keys.

    Raises `BadArgument`, with what was expected, for anything else.
    """
    return LinkSettings(**_read(text, _READERS))


def _read(text: str, keys: Collection[str]) -> dict[str, Any]:
    """The fields of `LinkSettings` that a text sets."""
    if len(text) > MAX_TEXT:
        raise BadArgument(f"link settings of {len(text)} characters, expected at most {MAX_TEXT}")
    values: dict[str, Any] = {}
    for part in text.split(","):
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in keys or not value:
            raise BadArgument(f"link setting {part[:64]!r}: expected KEY=VALUE with a KEY of {', '.join(keys)}")
        field, reader = _READERS[key]
        if field == "outages":
            values[field] = (*values.get(field, ()), reader(key, value))
        elif field in values:
            raise BadArgument(f"link setting {part[:64]!r}: {field} was set before")
        else:
            values[field] = reader(key, value)
    return values


# Values are scaled as decimals, so that each becomes the float nearest to what was written and comes back the same.

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z%]*)")


def _number(key: str, text: str, scales: Mapping[str, Decimal], expected: str) -> tuple[float, str]:
    """A number of one of these units, scaled, and the unit."""
    match = _NUMBER.fullmatch(text)
    if match is None or not text.isascii() or match[2] not in scales:
        raise BadArgument(f"link setting {key}={text[:64]}: expected {expected}")
    return float(Decimal(match[1]) * scales[match[2]]), match[2]


_ONE = Decimal(1)
_TIME_UNITS = {"": _ONE / 1_000, "ms": _ONE / 1_000, "s": _ONE}
_HALF_UNITS = {unit: scale / 2 for unit, scale in _TIME_UNITS.items()}
_RATE_UNITS = {"": _ONE, "k": _ONE * 1_000, "M": _ONE * 1_000_000, "G": _ONE * 1_000_000_000}
_QUEUE_UNITS = {"": _ONE, "ms": _ONE, "s": _ONE * 1_000, "packets": _ONE, "bytes": _ONE}


def _time(key: str, text: str) -> float:
    return _number(key, text, _TIME_UNITS, "milliseconds, such as 40, 40ms or 0.04s")[0]


def _round_trip(key: str, text: str) -> float:
    return _number(key, text, _HALF_UNITS, "milliseconds, such as 40, 40ms or 0.04s")[0]


def _share(key: str, text: str) -> float:
    expected = "a percentage such as 1%, or a share below 1 such as 0.01"
    value, unit = _number(key, text, {"": _ONE, "%": _ONE / 100}, expected)
    if not unit and value >= 1:
        # Who writes loss=1 means one percent more often than all.
        raise BadArgument(f"link setting {key}={text[:64]}: expected {expected}")
    return value


def _packets(key: str, text: str) -> float:
    return _number(key, text, {"": _ONE}, "a number of packets, such as 4")[0]


def _bit_rate(key: str, text: str) -> float:
    return _number(key, text, _RATE_UNITS, "bits per second, such as 500k, 5M or 1G")[0]


def _queue(key: str, text: str) -> QueueLimit:
    amount, unit = _number(key, text, _QUEUE_UNITS, "milliseconds, packets or bytes: 100ms, 64packets, 65536bytes")
    match unit:
        case "packets" | "bytes":
            return QueueLimit(amount, unit)
        case _:
            return QueueLimit(amount)


def _seconds(key: str, text: str) -> float:
    value = _number(key, text, {"": _ONE}, "seconds")[0]
    _check(key, value, 0, MAX_TIME)
    return value


def _outage(key: str, text: str) -> tuple[float, float]:
    start, separator, end = text.partition("-")
    if not separator:
        raise BadArgument(f"link setting {key}={text[:64]}: expected START-END in seconds, such as 5-7.5")
    return _seconds(key, start), _seconds(key, end)


def _integer(key: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise BadArgument(f"link setting {key}={text[:64]}: expected an integer")
    return int(text)


def _trace(_: str, text: str) -> LinkTrace:
    return LinkTrace.read(text)


_READERS: Final[dict[str, tuple[str, Callable[[str, str], Any]]]] = {
    "rtt": ("delay", _round_trip),
    "delay": ("delay", _time),
    "jitter": ("jitter", _time),
    "loss": ("loss", _share),
    "burst": ("burst", _packets),
    "reorder": ("reorder", _share),
    "duplicate": ("duplicate", _share),
    "corrupt": ("corrupt", _share),
    "rate": ("rate", _bit_rate),
    "queue": ("queue", _queue),
    "outage": ("outages", _outage),
    "seed": ("seed", _integer),
    "trace": ("trace", _trace),
}
_CHANGING = [key for key in _READERS if key not in ("queue", "outage", "seed", "trace")]


def _decimal(value: float, scale: int = 1) -> str:
    """Exactly this value, without an exponent."""
    text = f"{Decimal(repr(value)) * scale:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
