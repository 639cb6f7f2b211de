"""WebRTC transport: peer connection, channels, units, results, reassembly, link statistics and a link emulator.

Knows nothing of models. The names below are loaded when they are first used, so that importing the package (or one of
its pure modules) does not load aiortc; only `Peer` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .channels import (
        CHANNELS,
        CONTROL,
        INTERMEDIATE,
        RESULT,
        ChannelIds,
        ChannelSpec,
        channel_ids,
        channel_maps,
        intermediate_attributes,
    )
    from .link import Link, LinkCounters
    from .link_settings import LinkSettings, LinkTrace, QueueLimit, parse_link
    from .liveness import Liveness
    from .peer import IceServer, Peer, PeerCounters
    from .pictures import OutgoingPicture, SentPicture
    from .reassembly import Reassembler, ReassemblyCounters, ReceivedFrame
    from .relay import Relay, RelayCounters
    from .relay_thread import RelayThread
    from .results import (
        OUTPUT_DETECTIONS,
        OUTPUT_NONE,
        OUTPUT_TENSORS,
        Result,
        Status,
        bitmap_of,
        heartbeat_result,
        is_result,
        pack_result,
        parse_result,
    )
    from .sctp_counters import SctpCounters
    from .sdp import ChannelAttribute, ChannelMap, add_channel_attributes, read_channel_attributes
    from .sender import Dropped, DropReason, OutgoingFrame, SenderCounters, SliceScheduler, UnitSender
    from .statistics import LinkStatistics, Window
    from .units import (
        DEFAULT_UNIT,
        MAX_SLICES,
        MAX_UNIT,
        Unit,
        heartbeat_unit,
        pack_unit,
        parse_unit,
        unit_payload_limit,
        units_of_frame,
    )
    from .vp8 import VideoCounters, VideoFrame, Vp8Assembler, key_size

_MODULES = {
    "channels": (
        "CHANNELS",
        "CONTROL",
        "INTERMEDIATE",
        "RESULT",
        "ChannelIds",
        "ChannelSpec",
        "channel_ids",
        "channel_maps",
        "intermediate_attributes",
    ),
    "link": ("Link", "LinkCounters"),
    "link_settings": ("LinkSettings", "LinkTrace", "QueueLimit", "parse_link"),
    "liveness": ("Liveness",),
    "peer": ("IceServer", "Peer", "PeerCounters"),
    "pictures": ("OutgoingPicture", "SentPicture"),
    "reassembly": ("ReassemblyCounters", "Reassembler", "ReceivedFrame"),
    "relay": ("Relay", "RelayCounters"),
    "relay_thread": ("RelayThread",),
    "results": (
        "OUTPUT_DETECTIONS",
        "OUTPUT_NONE",
        "OUTPUT_TENSORS",
        "Result",
        "Status",
        "bitmap_of",
        "heartbeat_result",
        "is_result",
        "pack_result",
        "parse_result",
    ),
    "sctp_counters": ("SctpCounters",),
    "sdp": ("ChannelAttribute", "ChannelMap", "add_channel_attributes", "read_channel_attributes"),
    "sender": ("DropReason", "Dropped", "OutgoingFrame", "SenderCounters", "SliceScheduler", "UnitSender"),
    "statistics": ("LinkStatistics", "Window"),
    "units": (
        "DEFAULT_UNIT",
        "MAX_SLICES",
        "MAX_UNIT",
        "Unit",
        "heartbeat_unit",
        "pack_unit",
        "parse_unit",
        "unit_payload_limit",
        "units_of_frame",
    ),
    "vp8": ("VideoCounters", "VideoFrame", "Vp8Assembler", "key_size"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CHANNELS",
    "CONTROL",
    "DEFAULT_UNIT",
    "INTERMEDIATE",
    "MAX_SLICES",
    "MAX_UNIT",
    "OUTPUT_DETECTIONS",
    "OUTPUT_NONE",
    "OUTPUT_TENSORS",
    "RESULT",
    "ChannelAttribute",
    "ChannelIds",
    "ChannelMap",
    "ChannelSpec",
    "DropReason",
    "Dropped",
    "IceServer",
    "Link",
    "LinkCounters",
    "LinkSettings",
    "LinkStatistics",
    "LinkTrace",
    "Liveness",
    "OutgoingFrame",
    "OutgoingPicture",
    "Peer",
    "PeerCounters",
    "QueueLimit",
    "Reassembler",
    "ReassemblyCounters",
    "ReceivedFrame",
    "Relay",
    "RelayCounters",
    "RelayThread",
    "Result",
    "SctpCounters",
    "SenderCounters",
    "SentPicture",
    "SliceScheduler",
    "Status",
    "Unit",
    "UnitSender",
    "VideoCounters",
    "VideoFrame",
    "Vp8Assembler",
    "Window",
    "add_channel_attributes",
    "bitmap_of",
    "channel_ids",
    "channel_maps",
    "intermediate_attributes",
    "heartbeat_result",
    "heartbeat_unit",
    "key_size",
    "is_result",
    "pack_result",
    "pack_unit",
    "parse_link",
    "parse_result",
    "parse_unit",
    "read_channel_attributes",
    "unit_payload_limit",
    "units_of_frame",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
