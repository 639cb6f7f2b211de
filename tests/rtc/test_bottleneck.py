"""What the sender makes of links that lose, are too narrow or are shared, in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiortc.rtcsctptransport import RTCSctpTransport

from benchmarks.virtual import FPS, WIRE, played, run_virtually
from rtc.link_settings import parse_link


def test_the_same_seed_gives_the_same_packets() -> None:
    one, other = (played("rtt=40,loss=3%,rate=5M", 2).came() for _ in range(2))
    assert one == pytest.approx(other)
    assert 0 < len(one) < 60


@pytest.mark.parametrize(("loss", "least"), [("1%", 0.98), ("3%", 0.96), ("5%,burst=5", 0.83)])
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
    settled = [took for number, took in seen.came().items() if number > 2 * FPS]
    assert len(settled) >= fps * 6
    own = WIRE / parse_link(f"rate={rate}").steps()[0][1].rate  # type: ignore[operator]
    assert sorted(settled)[len(settled) * 9 // 10] <= rtt / 2e3 + own + 0.02
    standing = [min(seen.queue[at : at + 40]) for at in range(8 * FPS, len(seen.queue) - 40, 40)]
    assert max(standing) < 0.05
    assert sorted(seen.queue)[len(seen.queue) * 95 // 100] <= min(own + 0.02, 0.11)


@pytest.mark.parametrize("rtt", [5, 40, 100])
def test_when_the_rate_falls_frames_are_soon_in_time_again(rtt: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("4 rate=1M\n", encoding="utf-8")
    seen = played(f"rtt={rtt},rate=8M,trace={trace}", 8)
    fell = seen.offered[0] + 4.0
    late = [
        seen.offered[number] + took - fell
        for number, took in seen.came().items()
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
