"""What a frame would take at a cut: on the device, over the link, at the edge. Pure arithmetic on measured times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitrtc_errors import BadArgument

__all__ = ["Deployment", "Latency"]


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of a frame's way: head, link (its round trip and the bytes), tail."""

    device: float
    link: float
    edge: float

    @property
    def total(self) -> float:
        """All of it. Coding, batching and waiting come on top."""
        return self.device + self.link + self.edge


@dataclass(frozen=True, slots=True)
class Deployment:
    """A device, a link and an edge.

    Attributes:
        node_ms: milliseconds of each node of a data path where they were measured, by place.
        rtt: milliseconds from the device to the edge and back.
        rate: bit/s from the device to the edge.
        device_speed: how much faster the device is than where was measured; 0.25 takes four times as long.
        edge_speed: the same of the edge.
    """

    node_ms: Sequence[float]
    rtt: float = 20.0
    rate: float = 20e6
    device_speed: float = 1.0
    edge_speed: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what gives no time, with BadArgument."""
        for name, value, least in (
            ("round-trip time", self.rtt, 0.0),
            ("rate", self.rate, 1.0),
            ("speed of the device", self.device_speed, 1e-6),
            ("speed of the edge", self.edge_speed, 1e-6),
        ):
            if not least <= value < float("inf"):
                raise BadArgument(f"the {name} is at least {least:g}, and finite, not {value}")

    def device_ms(self) -> list[float]:
        """Milliseconds of each node on the device."""
        return [ms / self.device_speed for ms in self.node_ms]

    def edge_ms(self) -> list[float]:
        """Milliseconds of each node at the edge."""
        return [ms / self.edge_speed for ms in self.node_ms]

    def wire_ms(self, size: float) -> float:
        """Milliseconds that so many bytes take on the link, without the round trip."""
        return size * 8e3 / self.rate

    def latency(self, head_ms: float, tail_ms: float, size: float) -> Latency:
        """Return what a frame takes when so many bytes cross; the times are as measured."""
        return Latency(head_ms / self.device_speed, self.rtt + self.wire_ms(size), tail_ms / self.edge_speed)

    def local(self) -> Latency:
        """Return what the whole model takes on the device, with nothing sent."""
        return Latency(sum(self.node_ms) / self.device_speed, 0.0, 0.0)
