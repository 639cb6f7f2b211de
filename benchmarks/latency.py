"""Latency of a session on this machine: an edge process and a UE process, loopback, the bundled clip at 30 fps.

Medians over the runs of what the UE reports. ``overhead_ms`` is a frame's time from capture to result without model
runs (head, tail) and codec (encode, decode); ``fresh_share`` the share of the frames that the source produced whose
result was back within 50 ms of capture; ``bytes_per_frame`` the units that carry a frame, with their headers.

What the transport adds to that is measured in one more session, by a UE in this process whose event loop counts at
its UDP sockets. It is all UDP payload while frames flow (DTLS, SCTP, acknowledgements, heartbeats, ICE's consent
checks), without the connection's set-up and without IP and UDP headers (28 bytes per datagram on IPv4).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.progress import Progress

from benchmarks.common import Figure, Option, edge_process, medians, play_for, run_benchmark, run_json
from pipeline.settings import UeSettings
from pipeline.ue import UeSession

FIGURES = (
    Figure("overhead p50", "overhead_ms.p50", "ms"),
    Figure("overhead p95", "overhead_ms.p95", "ms"),
    Figure("capture to result p50", "latency_ms.total.p50", "ms"),
    Figure("capture to result p95", "latency_ms.total.p95", "ms"),
    Figure("fresh (within 50 ms)", "fresh_share"),
    Figure("answered", "answered_share"),
    Figure("units of a frame", "bytes_per_frame", "bytes"),
    Figure("UDP payload per frame, sent", "transport.sent_bytes_per_frame", "bytes"),
    Figure("share of it that is transport", "transport_overhead_share"),
    Figure("UDP payload per frame, received", "transport.received_bytes_per_frame", "bytes"),
)
REPORTED = ("frames_produced", "answered_share", "fresh_share", "bytes_per_frame", "overhead_ms", "latency_ms")


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that counts what its UDP sockets carry."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = self.received = self.datagrams_sent = self.datagrams_received = 0

    def counts(self) -> tuple[int, int, int, int]:
        """Bytes sent and received, datagrams sent and received."""
        return self.sent, self.received, self.datagrams_sent, self.datagrams_received

    async def create_datagram_endpoint(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        """See asyncio."""

        def counted() -> Any:
            protocol = protocol_factory()
            receive = protocol.datagram_received

            def datagram_received(data: bytes, address: Any) -> None:
                self.received += len(data)
                self.datagrams_received += 1
                receive(data, address)

            protocol.datagram_received = datagram_received
            return protocol

        def sendto(data: bytes, address: Any = None) -> None:
            self.sent += len(data)
            self.datagrams_sent += 1
            send(data, address)

        transport: Any
        transport, protocol = await super().create_datagram_endpoint(counted, *args, **kwargs)
        send, transport.sendto = transport.sendto, sendto
        return transport, protocol


async def count_transport(loop: CountingLoop, url: str, seconds: float) -> dict[str, Any]:
    """Play the clip and compare what the UDP sockets carried with the units of the frames."""
    async with UeSession(UeSettings(url)) as session:
        before = loop.counts()
        run = session.run("clip")
        summary = await play_for(run, seconds)
        used = [after - start for after, start in zip(loop.counts(), before, strict=True)]
    per_frame = [round(value / max(summary.frames_sent, 1), 1) for value in used]
    return {
        "transport_overhead_share": round(1 - summary.bytes_sent / max(used[0], 1), 4),
        "transport": {
            "frames": summary.frames_sent,
            "unit_bytes_per_frame": round(summary.bytes_sent / max(summary.frames_sent, 1), 1),
            "sent_bytes_per_frame": per_frame[0],
            "received_bytes_per_frame": per_frame[1],
            "datagrams_sent_per_frame": per_frame[2],
            "datagrams_received_per_frame": per_frame[3],
        },
    }


def measure(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Run the benchmark."""
    command = ("-m", "splitrtc", "ue", "--mode", "split", "--source", "clip", "--json")
    with edge_process() as edge:
        limits = ("--log-level", "warning", "--edge", edge.url, "--seconds", str(options.seconds))
        runs = [run_json(*command, *limits) for _ in progress.track(range(options.runs), description="latency")]
        progress.add_task("bytes of the transport", total=None)
        with asyncio.Runner(loop_factory=CountingLoop) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, CountingLoop)
            transport = runner.run(count_transport(loop, edge.url, options.seconds))
    return {
        **{name: runs[0][name] for name in ("model", "partition", "profile", "provider")},
        "runs": len(runs),
        **medians([{name: run[name] for name in REPORTED} for run in runs]),
        "overhead_ms_of_runs": [run["overhead_ms"] for run in runs],
        **transport,
    }


def main() -> None:
    """Run it from the command line."""
    run_benchmark(
        __file__,
        __doc__ or "",
        FIGURES,
        measure,
        Option("--runs", 3, "sessions to take the median of"),
        Option("--seconds", 60.0, "longest time of a session; the clip has ten"),
    )


if __name__ == "__main__":
    main()
