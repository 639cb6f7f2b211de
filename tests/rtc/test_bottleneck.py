"""What the sender makes of links that lose, are too narrow or are shared, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiortc.rtcsctptransport import RTCSctpTransport

from rtc.link import Link
from rtc.link_settings import parse_link
from rtc.sctp import SctpTransport
from rtc.sender import OutgoingFrame, UnitSender

from .virtual import Side, Wire, connect_virtually, run_virtually

FPS = 30
UNIT, UNITS = 1_079, 9
WIRE = UNITS * (UNIT + 28 + 37 + 28) * 8
"""Bits of a frame with the headers of SCTP, DTLS, UDP and IP."""


@dataclass
class Seen:
    """What came of the frames: when each was offered, its units with their times, the link's queue; of a rival, bytes."""

    offered: list[float] = field(default_factory=list)
    arrived: list[list[float]] = field(default_factory=list)
    queue: list[float] = field(default_factory=list)
    rival: int = 0

    @property
    def bytes(self) -> int:
        return sum(map(len, self.arrived)) * UNIT

    def whole(self) -> dict[int, float]:
        """Of the frames that came whole, after which time."""
        return {
            number: times[-1] - self.offered[number]
            for number, times in enumerate(self.arrived)
            if len(times) == UNITS
        }

    def in_time(self, limit: float) -> float:
        """Share of all units that came in time."""
        due = zip(self.offered, self.arrived, strict=True)
        return sum(at - offered <= limit for offered, times in due for at in times) / len(self.offered) / UNITS


@asynccontextmanager
async def sides(kind: type[RTCSctpTransport], up: Wire, down: Wire) -> AsyncIterator[tuple[Side, Side]]:
    ue, edge, tasks = await connect_virtually(kind, kind, up, down)
    try:
        yield ue, edge
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for side in (ue, edge):
            await side.sctp.stop()


async def play(
    link: str, seconds: float, kind: type[RTCSctpTransport] = SctpTransport, rival: bool = False
) -> Seen:
    loop = asyncio.get_running_loop()
    settings, seen = parse_link(link), Seen()
    up, down = (Wire(Link(settings, f"1/{side}", loop.time())) for side in ("ue", "edge"))
    async with AsyncExitStack() as stack:
        ue, edge = await stack.enter_async_context(sides(kind, up, down))
        edge.intermediate.on("message", lambda unit: seen.arrived[int.from_bytes(unit[:4])].append(loop.time()))
        offer: Callable[[OutgoingFrame], None]
        if isinstance(ue.sctp, SctpTransport):
            sender = UnitSender(ue.intermediate, loop.time, backlog=ue.sctp.backlog)
            offer = sender.offer
            stack.callback(sender.close)
        else:

            def offer(frame: OutgoingFrame) -> None:
                if not ue.intermediate.bufferedAmount:
                    for unit in frame.units:
                        ue.intermediate.send(unit)

        fill: Callable[[], None] = lambda: None  # noqa: E731
        if rival:
            greedy, sink = await stack.enter_async_context(sides(RTCSctpTransport, up, down))

            def count(message: bytes) -> None:
                seen.rival += len(message)

            def fill() -> None:
                while greedy.intermediate.bufferedAmount < 8_000:
                    greedy.intermediate.send(bytes(1_100))

            sink.intermediate.on("message", count)
        begin = loop.time()
        for number in range(round(seconds * FPS)):
            seen.offered.append(loop.time())
            seen.arrived.append([])
            offer(OutgoingFrame(number, [number.to_bytes(4) + bytes(UNIT - 4)] * UNITS, loop.time() + 0.5))
            for part in range(1, 5):
                seen.queue.append(max(0.0, up.link._free_at - loop.time()))
                fill()
                await asyncio.sleep(begin + (number + part / 4) / FPS - loop.time())
        await asyncio.sleep(1.0)
    return seen


def played(link: str, seconds: float, kind: type[RTCSctpTransport] = SctpTransport, rival: bool = False) -> Seen:
    return run_virtually(lambda: play(link, seconds, kind, rival))


def test_the_same_seed_gives_the_same_packets() -> None:
    one, other = (played("rtt=40,loss=3%,rate=5M", 2).whole() for _ in range(2))
    assert one == pytest.approx(other)
    assert 0 < len(one) < 60


@pytest.mark.parametrize(("loss", "least"), [("1%", 0.98), ("3%", 0.96), ("5%,burst=5", 0.87)])
def test_what_is_not_lost_comes_in_time(loss: str, least: float) -> None:
    link = f"rtt=40,rate=5M,loss={loss}"
    assert played(link, 10).in_time(0.045) >= least > played(link, 10, RTCSctpTransport).in_time(0.045)


@pytest.mark.parametrize("jitter", [10, 20])
def test_delays_that_vary_do_not_hold_it_back(jitter: int) -> None:
    assert played(f"rtt=40,rate=5M,jitter={jitter}", 10).in_time(0.045 + jitter / 1e3) >= 0.95


@pytest.mark.parametrize(("rate", "fps"), [("500k", 4.0), ("1M", 9.0), ("2M", 18.0)])
@pytest.mark.parametrize("rtt", [5, 40])
def test_on_a_slow_link_fewer_frames_go_and_none_waits(rate: str, fps: float, rtt: int) -> None:
    seen = played(f"rtt={rtt},rate={rate},queue=500ms", 8)
    settled = [took for number, took in seen.whole().items() if number > 2 * FPS]
    assert len(settled) >= fps * 6
    own = WIRE / parse_link(f"rate={rate}").steps()[0][1].rate  # type: ignore[operator]
    assert sorted(settled)[len(settled) * 9 // 10] <= rtt / 2e3 + own + 0.02
    standing = [min(seen.queue[at : at + 40]) for at in range(8 * FPS, len(seen.queue) - 40, 40)]
    assert max(standing) < 0.05
    assert sorted(seen.queue)[len(seen.queue) * 95 // 100] <= min(own, 0.11)


@pytest.mark.parametrize("rtt", [5, 40, 100])
def test_when_the_rate_falls_frames_are_soon_in_time_again(rtt: int, tmp_path: pytest.TempPathFactory) -> None:
    trace = f"{tmp_path}/trace"
    with open(trace, "w", encoding="utf-8") as file:
        file.write("4 rate=1M\n")
    seen = played(f"rtt={rtt},rate=8M,trace={trace}", 8)
    fell = seen.offered[0] + 4.0
    late = [
        seen.offered[number] + took - fell
        for number, took in seen.whole().items()
        if took > rtt / 2e3 + WIRE / 1e6 + 0.02
    ]
    assert sum(after > 1.0 for after in late) <= 2


@pytest.mark.parametrize("queue", ["15ms", "50ms", "100ms", "300ms"])
def test_a_rival_keeps_its_share(queue: str) -> None:
    seen = played(f"rtt=40,rate=1M,queue={queue}", 15, rival=True)
    assert 0.3 <= seen.rival / (seen.rival + seen.bytes) <= 0.9


@pytest.mark.parametrize("queue", ["10ms", "20ms"])
def test_where_loss_is_the_only_sign_it_backs_off(queue: str) -> None:
    seen = played(f"rtt=40,rate=1M,queue={queue}", 6)
    assert seen.bytes * 8 / 6 <= 700_000


async def _cannot_wait() -> None:
    await asyncio.Event().wait()


def test_the_virtual_loop_does_not_wait_for_ever() -> None:
    with pytest.raises(AssertionError, match="nothing will ever happen"):
        run_virtually(_cannot_wait)
