"""Hostile inputs per parser, without a crash, a hang or growth: ``python -m benchmarks.fuzz``, or ``--json``.

Every reader of bytes that come from a peer, or from a file that somebody else may have written
(`benchmarks.fuzz_targets`), gets inputs made from good ones by a seeded generator: bytes turned over, cut out, doubled,
exchanged with those of another input, replaced by what is at the edges of ranges; and some that are random altogether.
A parser fails with an input when anything but the declared exceptions comes out, or when it takes longer than the
limit, twice; and as a whole when the process has grown.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.fuzz_targets import Target, targets

__all__ = ["INPUTS", "Outcome", "main", "mutations", "run"]

INPUTS = 1_000_000
"""Per parser."""
SECONDS_PER_INPUT = 0.25
"""That one input may take, of the processor's time."""
HANG_SECONDS = 30.0
"""After which a parser is interrupted."""
WARM_UP = 0.1
"""Share of the inputs after which memory is first looked at: caches are full then."""
MAX_GROWTH_MB = 16.0
MAX_PEAK_MB = 128.0
"""Of memory beyond that at the start, at any time: what one input may make a parser allocate, and then free."""
MAX_INPUT = 65_536
RANDOM_SHARE = 0.05
_MB = 1e6
_PAGE = os.sysconf("SC_PAGE_SIZE")

_EDGES = (b"\0", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")
_TEXTS = (
    *(bytes([mark]) for mark in b"\"'\\{}[]:,;=% \t\n-0"),
    *(b"%00", b"%ff", b"\r\n", b"-1", b"1e999", b"-0", b"1.5", b"NaN", b"Infinity", b"null", b"true", b"9" * 20),
    *(b'""', b"[]", b"{}", b'"\\ud800"', b"\\u0000", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"9" * 400),
    *(b"[" * 1500, b'{"a":' * 32, b"a=dcmap:", b"a=dcsa:", b"m="),
)


@dataclass(slots=True)
class Outcome:
    """How a parser did. Memory in MB; failures are texts with the input in hexadecimal."""

    name: str
    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    growth_mb: float = 0.0
    peak_mb: float = 0.0
    slowest_ms: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Inputs per second."""
        return self.inputs / self.seconds if self.seconds else 0.0


class Hang(BaseException):
    """A parser did not come back. Not an Exception, so that no parser catches it."""


def mutations(target: Target, seed: int) -> Iterator[bytes]:
    """Inputs without end, the same for the same seed."""
    rng = random.Random(f"{target.name} {seed}")
    good = list(target.good)
    pieces = _TEXTS if target.is_text else _EDGES
    chance, below = rng.random, rng.randrange
    while True:
        if chance() < RANDOM_SHARE:
            yield rng.randbytes(below(200))
            continue
        data = bytearray(good[int(chance() * len(good))])
        for _ in range(1 + int(chance() * chance() * 5)):
            size = len(data)
            start = int(chance() * (size + 1))
            match int(chance() * 8):
                case 0 | 1 if start < size:
                    data[start] = int(chance() * 256)
                case 2 if start < size:
                    data[start] ^= 1 << int(chance() * 8)
                case 3:
                    piece = pieces[int(chance() * len(pieces))]
                    data[start : start + (len(piece) if chance() < 0.5 else 0)] = piece
                case 4:
                    del data[start : start + 1 + int(chance() * 16)]
                case 5:
                    other = good[int(chance() * len(good))]
                    cut = int(chance() * (len(other) + 1))
                    data[start : start + 32] = other[cut : cut + 32]
                case 6:
                    data[start:start] = data[start : start + 1 + int(chance() * 64)]
                case 7 if chance() < 0.3:
                    del data[start:]
        yield bytes(data[:MAX_INPUT])


def run(target: Target, inputs: int, seed: int = 1, max_failures: int = 10) -> Outcome:
    """Feed a parser. Its failures end up in the outcome; after ``max_failures`` the rest is left out."""
    outcome = Outcome(target.name)
    source = mutations(target, seed)
    warm = int(inputs * WARM_UP)
    clock = time.perf_counter
    started = clock()
    before, peak_before = _resident_mb(), _peak_mb()
    with _interrupted_when_it_hangs() as alive:
        for number in range(inputs):
            if number % 1024 == 0:
                alive()
            if number == warm:
                gc.collect()
                before, peak_before = _resident_mb(), _peak_mb()
            data = next(source)
            began = clock()
            try:
                target.read(data)
                outcome.accepted += 1
            except target.raises:
                pass
            except (Exception, Hang) as error:
                outcome.failures.append(f"{type(error).__name__}: {error!s:.200} from {data.hex():.4000}")
            took = clock() - began
            outcome.inputs += 1
            if took > SECONDS_PER_INPUT and (again := _time_of(target, data)) > SECONDS_PER_INPUT:
                outcome.failures.append(f"{again:.2f} s for {data.hex():.4000}")
            outcome.slowest_ms = max(outcome.slowest_ms, took * 1000)
            if len(outcome.failures) >= max_failures:
                break
    outcome.seconds = clock() - started
    gc.collect()
    resident = _resident_mb()
    outcome.growth_mb = max(0.0, resident - before)
    outcome.peak_mb = max(0.0, _peak_mb() - max(peak_before, before))
    if outcome.growth_mb > MAX_GROWTH_MB:
        outcome.failures.append(f"memory grew by {outcome.growth_mb:.1f} MB over {outcome.inputs} inputs")
    if outcome.peak_mb > MAX_PEAK_MB:
        outcome.failures.append(f"memory had a peak of {outcome.peak_mb:.1f} MB more than at the start")
    return outcome


def _time_of(target: Target, data: bytes) -> float:
    """Processor seconds for one input: what another process does to this one does not count."""
    began = time.thread_time()
    try:
        target.read(data)
    except Exception as error:
        if not isinstance(error, target.raises):
            return time.thread_time() - began
    return time.thread_time() - began


@contextmanager
def _interrupted_when_it_hangs() -> Iterator[Callable[[], None]]:
    """Raise Hang wherever the program is, unless the function given is called every so often."""

    def interrupt(*_: object) -> None:
        raise Hang(f"still busy after {HANG_SECONDS:g} s")

    def alive() -> None:
        signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield alive
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE / _MB


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _MB


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parsers that are named, or all; the exit code is 1 when one fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=INPUTS, help=f"per parser (default {INPUTS})")
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other inputs (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("names", nargs="*", metavar="PARSER", help="(default: all)")
    chosen = parser.parse_args(arguments)
    known = targets()
    if unknown := set(chosen.names) - {target.name for target in known}:
        parser.error(f"no parser {', '.join(sorted(unknown))}; there are: {', '.join(target.name for target in known)}")
    console = Console(stderr=True)
    outcomes = []
    for target in known:
        if chosen.names and target.name not in chosen.names:
            continue
        outcome = run(target, chosen.inputs, chosen.seed)
        outcomes.append(outcome)
        console.print(f"{target.name}: {outcome.inputs} inputs, {outcome.rate:.0f}/s", style="dim")
        for failure in outcome.failures:
            console.print(f"  {failure}", style="red", markup=False)
    if chosen.json:
        print(json.dumps({outcome.name: asdict(outcome) | {"rate": outcome.rate} for outcome in outcomes}))
    else:
        Console().print(_table(outcomes, chosen.seed))
    sys.exit(any(outcome.failures for outcome in outcomes))


def _table(outcomes: Sequence[Outcome], seed: int) -> Table:
    table = Table("parser", title=f"hostile inputs, seed {seed}")
    for heading in ("inputs", "accepted", "inputs/s", "slowest ms", "growth MB", "peak MB", "failures"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        accepted = outcome.accepted / max(outcome.inputs, 1)
        table.add_row(
            outcome.name,
            f"{outcome.inputs}",
            f"{accepted:.1%}",
            f"{outcome.rate:.0f}",
            f"{outcome.slowest_ms:.1f}",
            f"{outcome.growth_mb:.1f}",
            f"{outcome.peak_mb:.1f}",
            f"{len(outcome.failures)}",
        )
    return table


if __name__ == "__main__":
    main()
