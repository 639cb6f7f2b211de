"""Signalling: SWAP messages, their server and client, and the negotiation of a split.

Knows what models are called, not what they are: it loads neither aiortc nor onnxruntime, and aiohttp only with the
server or the client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from signaling.aisplit import MAX_OFFERS, SplitOffer, attributes_of, offers_of
    from signaling.applications import (
        InferenceRequest,
        InferenceResponse,
        InformationRequest,
        InformationResponse,
        Need,
        Selection,
        SelectionRequest,
        SelectionResponse,
    )
    from signaling.auth import TokenGuard, check_token, redact, token_subprotocol
    from signaling.candidates import (
        Candidate,
        candidates_of,
    )
    from signaling.client import SignalingClient, normalise_url
    from signaling.control import (
        Bye,
        ControlMessage,
        Drain,
        ParameterSet,
        ParameterSetAck,
        ParameterSetReject,
        ParameterSetRelease,
        ParameterSetReleased,
        PeerFailure,
        Report,
        parse_control,
        serialise_control,
    )
    from signaling.decision import (
        Decision,
        Explained,
        Wish,
        decide,
    )
    from signaling.endpoint import SwapEndpoint
    from signaling.manifest import (
        Manifest,
        manifest_bytes,
        read_manifest,
    )
    from signaling.messages import Criterion
    from signaling.negotiation import Acceptable, check_answer, choose
    from signaling.parametersets import MAX_OPEN_SETS, ReceivedSets, SentSets
    from signaling.problems import (
        DRAINING,
        EDGE_FAILURE,
        EDGE_FULL,
        NO_COMMON_OPERATING_POINT,
        UNAUTHORIZED,
        Problem,
        make_problem,
        problem_of,
        rejection,
    )
    from signaling.resume import new_resume_id, resume_attribute, resume_id_of, without_resume_id
    from signaling.server import SignalingServer
    from signaling.session import ConnectHandler, ConnectRequest, SignalingSession
    from signaling.swap import SECOND, STANDARD, Dialect

_MODULES = {
    "signaling.aisplit": ("MAX_OFFERS", "SplitOffer", "attributes_of", "offers_of"),
    "signaling.applications": (
        "InferenceRequest",
        "InferenceResponse",
        "InformationRequest",
        "InformationResponse",
        "Need",
        "Selection",
        "SelectionRequest",
        "SelectionResponse",
    ),
    "signaling.candidates": ("Candidate", "candidates_of"),
    "signaling.decision": ("Decision", "Explained", "Wish", "decide"),
    "signaling.manifest": ("Manifest", "manifest_bytes", "read_manifest"),
    "signaling.auth": ("TokenGuard", "check_token", "redact", "token_subprotocol"),
    "signaling.client": ("SignalingClient", "normalise_url"),
    "signaling.control": (
        "Bye",
        "ControlMessage",
        "Drain",
        "ParameterSet",
        "ParameterSetAck",
        "ParameterSetReject",
        "ParameterSetRelease",
        "ParameterSetReleased",
        "PeerFailure",
        "Report",
        "parse_control",
        "serialise_control",
    ),
    "signaling.endpoint": ("SwapEndpoint",),
    "signaling.messages": ("Criterion",),
    "signaling.negotiation": ("Acceptable", "check_answer", "choose"),
    "signaling.parametersets": ("MAX_OPEN_SETS", "ReceivedSets", "SentSets"),
    "signaling.problems": (
        "DRAINING",
        "EDGE_FAILURE",
        "EDGE_FULL",
        "NO_COMMON_OPERATING_POINT",
        "UNAUTHORIZED",
        "Problem",
        "make_problem",
        "problem_of",
        "rejection",
    ),
    "signaling.resume": ("new_resume_id", "resume_attribute", "resume_id_of", "without_resume_id"),
    "signaling.server": ("SignalingServer",),
    "signaling.session": ("ConnectHandler", "ConnectRequest", "SignalingSession"),
    "signaling.swap": ("SECOND", "STANDARD", "Dialect"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Manifest",
    "manifest_bytes",
    "read_manifest",
    "Decision",
    "Explained",
    "Wish",
    "decide",
    "Candidate",
    "candidates_of",
    "InferenceRequest",
    "InferenceResponse",
    "InformationRequest",
    "InformationResponse",
    "Need",
    "Selection",
    "SelectionRequest",
    "SelectionResponse",
    "Acceptable",
    "Bye",
    "ConnectHandler",
    "ConnectRequest",
    "ControlMessage",
    "Criterion",
    "DRAINING",
    "Dialect",
    "Drain",
    "EDGE_FAILURE",
    "EDGE_FULL",
    "MAX_OFFERS",
    "MAX_OPEN_SETS",
    "NO_COMMON_OPERATING_POINT",
    "ParameterSet",
    "ParameterSetAck",
    "ParameterSetReject",
    "ParameterSetRelease",
    "ParameterSetReleased",
    "PeerFailure",
    "Problem",
    "ReceivedSets",
    "Report",
    "SECOND",
    "STANDARD",
    "SentSets",
    "SignalingClient",
    "SignalingServer",
    "SignalingSession",
    "SplitOffer",
    "SwapEndpoint",
    "TokenGuard",
    "UNAUTHORIZED",
    "attributes_of",
    "check_answer",
    "check_token",
    "choose",
    "make_problem",
    "new_resume_id",
    "normalise_url",
    "offers_of",
    "parse_control",
    "problem_of",
    "redact",
    "rejection",
    "resume_attribute",
    "resume_id_of",
    "serialise_control",
    "token_subprotocol",
    "without_resume_id",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
