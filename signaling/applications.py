"""What is said in the negotiation procedures of TR 26.927 clause 5.2.3.2, steps 2a to 9b, as SWAP application messages.

docs/protocol.md section 1.6 has them on the wire, `signaling.procedures` who says what when.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from models.codecs import is_profile_id
from models.identity import is_digest, is_partition_id
from models.information import EndpointCapabilities, ServiceRequirements, take_information
from models.members import Members
from signaling.candidates import Candidate
from signaling.decision import LEAST_RATE, MODES, OPTIMISE, PRIVACY, Device, Link, Wish
from signaling.entries import Entry, choice, integer, matching, maybe, one
from signaling.manifest import STATES, TAKE_MODELS, Load, ModelEntry
from splitrtc_errors import ModelFileError, ProtocolError

__all__ = [
    "REQUESTS",
    "RESPONSES",
    "URN",
    "InferenceRequest",
    "InferenceResponse",
    "InformationRequest",
    "InformationResponse",
    "Need",
    "Request",
    "Response",
    "Selection",
    "SelectionRequest",
    "SelectionResponse",
    "Statement",
    "read_request",
    "read_response",
    "statement",
]

URN = "urn:splitrtc:ai-split:1:"
MAX_ID = 2**32 - 1
MAX_MODELS = 64

M = TypeVar("M", bound=Entry)
Statement = tuple[str, dict[str, Any]]
"""Type and value of an application message."""


def _digests(members: Members, name: str) -> tuple[str, ...]:
    values = members.take(name, list)
    if len(values) > MAX_MODELS or not all(isinstance(value, str) and is_digest(value) for value in values):
        raise ModelFileError(f"{members.where}: {name!r} is a list of at most {MAX_MODELS} digests")
    return tuple(values)


def _modes(members: Members, name: str) -> tuple[str, ...]:
    values = members.take_texts(name)
    if len(set(values)) < len(values) or not set(values) <= set(MODES):
        raise ModelFileError(f"{members.where}: {name!r} are of {', '.join(MODES)}, each once")
    return values


_ID = integer(1, MAX_ID)
_DIGEST = matching(is_digest, "'sha-256:' and 64 lower-case hex digits")
_RESUME = maybe(matching(is_partition_id, "32 lower-case hex digits"))


def _capabilities(members: Members, name: str) -> EndpointCapabilities:
    return take_information(members, name, EndpointCapabilities)


def _fps(members: Members, name: str) -> float:
    value = members.take(name, float)
    if not 0 < value <= 1000:
        raise ModelFileError(f"{members.where}: {name!r} is above 0 and at most 1000")
    return value


@dataclass(frozen=True, slots=True)
class Need(Entry):
    """What the UE asks for and can do (steps 2a, 2b).

    ``capabilities`` has the link's rate and round trip; ``models`` are the digests of the whole models on the device;
    ``model`` and ``partition`` are names or ids of the only ones that it wants, ``prefer`` that of a split point that
    is taken if it may be (4b).
    """

    service: ServiceRequirements
    capabilities: EndpointCapabilities
    optimise: str = "latency"
    privacy: str = "any"
    modes: tuple[str, ...] = MODES
    fps: float = 30.0
    models: tuple[str, ...] = ()
    model: str | None = None
    partition: str | None = None
    prefer: str | None = None

    _members: ClassVar = {
        "service": lambda members, name: take_information(members, name, ServiceRequirements),
        "capabilities": _capabilities,
        "optimise": choice(OPTIMISE),
        "privacy": choice(PRIVACY),
        "modes": _modes,
        "fps": _fps,
        "models": _digests,
        "model": maybe(Members.take_text),
        "partition": maybe(Members.take_text),
        "prefer": maybe(Members.take_text),
    }

    @property
    def device(self) -> Device:
        """The UE, for `decide`."""
        return Device(self.capabilities, frozenset(self.models))

    @property
    def link(self) -> Link | None:
        """The link, for `decide`; None where nothing of use is known of it."""
        rate, rtt = self.capabilities.rate, self.capabilities.rtt
        return Link(rate, rtt) if rate is not None and rate >= LEAST_RATE and rtt is not None else None

    @property
    def wish(self) -> Wish:
        """What is wanted, for `decide`."""
        return Wish(
            optimise=self.optimise,
            privacy=self.privacy,
            modes=self.modes,
            max_latency=self.service.max_latency,
            min_accuracy=self.service.min_accuracy,
            prefer=self.prefer,
            fps=self.fps,
        )


@dataclass(frozen=True, slots=True)
class Selection(Entry):
    """A selected operating point; without partition and profile in mode local."""

    mode: str
    model: str
    variant: str
    partition: str | None = None
    profile: str | None = None
    calibration: str | None = None

    _members: ClassVar = {
        "mode": choice(MODES),
        "model": _DIGEST,
        "variant": Members.take_name,
        "partition": maybe(matching(is_partition_id, "32 lower-case hex digits")),
        "profile": maybe(matching(is_profile_id, "the id of a profile")),
        "calibration": maybe(_DIGEST),
    }

    def _check(self, where: str) -> None:
        if (self.mode == "local") != (self.partition is None) or (self.partition is None) != (self.profile is None):
            raise ModelFileError(f"{where}: 'partition' and 'profile' come with every mode but local")

    @property
    def operating_point(self) -> tuple[str, str | None, str, str | None, str | None, str]:
        """As an offer's: what two have in common that stand for the same work."""
        return (self.model, self.partition, self.variant, self.profile, self.calibration, "up")

    @classmethod
    def of(cls, candidate: Candidate) -> Selection:
        """That of a candidate."""
        return cls(
            candidate.mode,
            candidate.model,
            candidate.variant,
            candidate.partition,
            candidate.profile,
            candidate.calibration,
        )


@dataclass(frozen=True, slots=True)
class InferenceRequest(Entry):
    """Step 2a. ``resume`` is the UE's resume id, as in the offer that follows (docs/protocol.md section 1.5)."""

    id: int
    need: Need
    resume: str | None = field(default=None, repr=False)

    _members: ClassVar = {"id": _ID, "need": one(Need), "resume": _RESUME}


@dataclass(frozen=True, slots=True)
class InferenceResponse(Entry):
    """Step 7a. What was selected is kept for ``reserved_ms`` milliseconds."""

    id: int
    selection: Selection
    reserved_ms: float | None = None

    _members: ClassVar = {"id": _ID, "selection": one(Selection), "reserved_ms": Members.take_number}


@dataclass(frozen=True, slots=True)
class InformationRequest(Entry):
    """Step 2b."""

    id: int
    need: Need

    _members: ClassVar = {"id": _ID, "need": one(Need)}


@dataclass(frozen=True, slots=True)
class InformationResponse(Entry):
    """Step 4b: the candidates, as in a manifest, what the edge is like now, and which one it would take."""

    id: int
    models: tuple[ModelEntry, ...]
    capabilities: EndpointCapabilities
    load: Load
    state: str
    preferred: Selection | None = None

    _members: ClassVar = {
        "id": _ID,
        "models": TAKE_MODELS,
        "capabilities": _capabilities,
        "load": one(Load),
        "state": choice(STATES),
        "preferred": maybe(one(Selection)),
    }


@dataclass(frozen=True, slots=True)
class SelectionRequest(Entry):
    """Step 6b."""

    id: int
    selection: Selection
    resume: str | None = field(default=None, repr=False)

    _members: ClassVar = {"id": _ID, "selection": one(Selection), "resume": _RESUME}


@dataclass(frozen=True, slots=True)
class SelectionResponse(Entry):
    """Step 9b. What was selected is kept for ``reserved_ms`` milliseconds."""

    id: int
    reserved_ms: float | None = None

    _members: ClassVar = {"id": _ID, "reserved_ms": Members.take_number}


Request = InferenceRequest | InformationRequest | SelectionRequest
Response = InferenceResponse | InformationResponse | SelectionResponse

REQUESTS: dict[str, type[Request]] = {
    URN + "inference-request": InferenceRequest,
    URN + "information-request": InformationRequest,
    URN + "selection-request": SelectionRequest,
}
RESPONSES: dict[str, type[Response]] = {
    URN + "inference-response": InferenceResponse,
    URN + "information-response": InformationResponse,
    URN + "selection-response": SelectionResponse,
}
_TYPES: dict[type[Entry], str] = {kind: type_ for type_, kind in (REQUESTS | RESPONSES).items()}


def statement(message: Request | Response) -> Statement:
    """The application message that says this."""
    return _TYPES[type(message)], message.to_json()


def read_request(type_: str, value: object) -> Request:
    """Read what a UE says; ProtocolError when it cannot be read."""
    return _read(REQUESTS, type_, value)


def read_response(type_: str, value: object) -> Response:
    """Read what an edge says; ProtocolError when it cannot be read."""
    return _read(RESPONSES, type_, value)


def _read(kinds: Mapping[str, type[M]], type_: str, value: object) -> M:
    kind = kinds.get(type_)
    if kind is None:
        raise ProtocolError("an application message of a type that is not known here")
    try:
        return kind.from_json(value, type_.removeprefix(URN))
    except ModelFileError as error:
        raise ProtocolError(str(error)) from error
