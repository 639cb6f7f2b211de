from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from models.information import EndpointCapabilities, ServiceRequirements
from signaling.applications import (
    REQUESTS,
    RESPONSES,
    InferenceRequest,
    InferenceResponse,
    InformationRequest,
    InformationResponse,
    Need,
    Request,
    Response,
    Selection,
    SelectionRequest,
    SelectionResponse,
    Statement,
    statement,
)
from signaling.procedures import MAX_PROCEDURES, DeviceProcedures, EdgeProcedures
from splitrtc_errors import BadArgument, ProtocolError
from tests.signaling.manifests import DIGEST, EARLY, MANIFEST

NEED = Need(
    ServiceRequirements("detection", 200.0, 25.0),
    EndpointCapabilities(("ONNX",), ("q4-zstd", "klt"), flops=5e9, rate=20e6, rtt=20.0),
    fps=10.0,
    models=(DIGEST,),
    model="tiny",
    prefer="early",
)
SELECTION = Selection("split", DIGEST, "fp32", EARLY.identifier, "q4-zstd")
LOCAL = Selection("local", DIGEST, "fp32")
REMOTE = Selection("remote", DIGEST, "fp32", EARLY.identifier, "video")


def information(id_: int) -> InformationResponse:
    return InformationResponse(id_, MANIFEST.models, MANIFEST.capabilities, MANIFEST.load, "ready", SELECTION)


def answer_to(request: Request) -> Response:
    match request:
        case InferenceRequest(id_):
            return InferenceResponse(id_, SELECTION, 10_000.0)
        case InformationRequest(id_):
            return information(id_)
        case SelectionRequest(id_):
            return SelectionResponse(id_, 10_000.0)


def test_the_network_decides() -> None:
    device, edge = DeviceProcedures(), EdgeProcedures()
    request = edge.receive(*device.request_inference(NEED, 32 * "a"))
    assert request == InferenceRequest(1, NEED, 32 * "a")
    assert 32 * "a" not in repr(request)
    assert device.receive(*edge.answer(answer_to(request))) == InferenceResponse(1, SELECTION, 10_000.0)


def test_the_ue_decides() -> None:
    device, edge = DeviceProcedures(), EdgeProcedures()
    request = edge.receive(*device.request_information(NEED))
    assert device.receive(*edge.answer(answer_to(request))) == information(1)
    request = edge.receive(*device.select(SELECTION))
    assert request == SelectionRequest(2, SELECTION)
    assert device.receive(*edge.answer(answer_to(request))) == SelectionResponse(2, 10_000.0)


def test_what_is_needed_is_told_as_a_decision_wants_it() -> None:
    assert NEED.device.models == {DIGEST}
    assert NEED.link is not None
    assert (NEED.link.rate, NEED.link.rtt) == (20e6, 20.0)
    assert (NEED.wish.max_latency, NEED.wish.min_accuracy, NEED.wish.prefer) == (200.0, 25.0, "early")
    for unknown in ({"rate": None}, {"rtt": None}, {"rate": 0.0}):
        assert replace(NEED, capabilities=replace(NEED.capabilities, **unknown)).link is None


def test_a_refused_request_can_be_asked_again() -> None:
    device, edge = DeviceProcedures(), EdgeProcedures()
    edge.receive(*device.request_inference(NEED))
    edge.refuse()
    with pytest.raises(BadArgument, match="one request at a time"):
        device.request_inference(NEED)
    device.give_up()
    assert edge.receive(*device.request_inference(NEED)).id == 2


def test_requests_are_counted() -> None:
    device, edge = DeviceProcedures(), EdgeProcedures()
    for _ in range(MAX_PROCEDURES):
        edge.answer(answer_to(edge.receive(*device.select(SELECTION))))
        device.give_up()
    with pytest.raises(ProtocolError, match="at most 16"):
        edge.receive(*device.select(SELECTION))


@pytest.mark.parametrize(
    ("need", "selection", "message"),
    [
        (replace(NEED, modes=("split",)), LOCAL, "mode local, which was not offered"),
        (replace(NEED, privacy="no-pictures"), REMOTE, "which was refused"),
        (NEED, replace(SELECTION, profile="raw"), "a profile that the device does not have"),
    ],
)
def test_the_device_takes_nothing_that_it_did_not_offer(need: Need, selection: Selection, message: str) -> None:
    device = DeviceProcedures()
    device.request_inference(need)
    with pytest.raises(ProtocolError, match=message):
        device.receive(*statement(InferenceResponse(1, selection)))


@pytest.mark.parametrize("selection", [SELECTION, replace(SELECTION, profile="klt:step=1"), LOCAL, REMOTE])
def test_the_device_takes_what_it_offered(selection: Selection) -> None:
    device = DeviceProcedures()
    device.request_inference(NEED)
    assert device.receive(*statement(InferenceResponse(1, selection))) == InferenceResponse(1, selection)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("id", 0, "inference-request: 'id' is between 1"),
        ("need.fps", 0, "'fps' is above 0"),
        ("need.modes", ["split", "split"], "'modes' are of"),
        ("need.modes", ["over"], "'modes' are of"),
        ("need.models", ["x"], "at most 64 digests"),
        ("need.models", [DIGEST] * 65, "at most 64 digests"),
        ("need.optimise", "speed", "'optimise' is latency or"),
        ("need.privacy", "some", "'privacy' is any or"),
        ("need.capabilities", 3, "'capabilities' is a dict"),
        ("resume", "secret", "'resume' is 32"),
        ("more", 1, "unknown 'more'"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(where: str, value: Any, message: str) -> None:
    type_, content = DeviceProcedures().request_inference(NEED, 32 * "a")
    *steps, last = where.split(".")
    at: Any = content
    for step in steps:
        at = at[step]
    at[last] = value
    with pytest.raises(ProtocolError, match=message):
        EdgeProcedures().receive(type_, content)


def test_a_selection_names_its_partition_unless_it_is_local() -> None:
    device, edge = DeviceProcedures(), EdgeProcedures()
    with pytest.raises(ProtocolError, match="come with every mode but local"):
        edge.receive(*device.select(replace(SELECTION, partition=None)))
    device.give_up()
    with pytest.raises(ProtocolError, match="come with every mode but local"):
        edge.receive(*device.select(replace(SELECTION, profile=None)))


def test_types_that_are_not_known_are_refused() -> None:
    type_, value = DeviceProcedures().select(SELECTION)
    with pytest.raises(ProtocolError, match="not known here"):
        EdgeProcedures().receive("urn:other", value)
    with pytest.raises(ProtocolError, match="not known here"):
        DeviceProcedures().receive(type_, value)


def test_the_edge_answers_only_what_was_asked() -> None:
    edge = EdgeProcedures()
    with pytest.raises(BadArgument):
        edge.answer(SelectionResponse(1))
    edge.receive(*DeviceProcedures().select(SELECTION))
    with pytest.raises(BadArgument):
        edge.answer(InferenceResponse(1, SELECTION))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(REQUESTS | RESPONSES)), json_values)
def test_any_value_is_read_or_refused(type_: str, value: Any) -> None:
    for read in (DeviceProcedures().receive, EdgeProcedures().receive):
        with pytest.raises(ProtocolError):
            read(type_, value)


class Exchange(RuleBasedStateMachine):
    """Both ends over a network that loses, repeats and reorders, with an edge that sometimes answers wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.device, self.edge = DeviceProcedures(), EdgeProcedures()
        self.up: list[Statement] = []
        self.down: list[tuple[Statement, type[Response], int]] = []
        self.asked: Request | None = None
        self.answering: Request | None = None
        self.taken: list[int] = []
        """Ids of the requests that the edge took."""
        self.ignored = 0

    @rule(kind=st.sampled_from(["inference", "information", "selection"]))
    def ask(self, kind: str) -> None:
        asks = {
            "inference": lambda: self.device.request_inference(NEED),
            "information": lambda: self.device.request_information(NEED),
            "selection": lambda: self.device.select(SELECTION),
        }
        if self.asked is not None:
            with pytest.raises(BadArgument):
                asks[kind]()
            return
        said = asks[kind]()
        self.asked = REQUESTS[said[0]].from_json(said[1], "")
        self.up.append(said)

    @rule()
    def give_up(self) -> None:
        self.device.give_up()
        self.asked = None

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def deliver_request(self, data: st.DataObject) -> None:
        type_, value = data.draw(st.sampled_from(self.up))
        late = value["id"] <= max(self.taken, default=0)
        if late or self.answering is not None or len(self.taken) >= MAX_PROCEDURES:
            with pytest.raises(ProtocolError):
                self.edge.receive(type_, value)
            return
        self.answering = self.edge.receive(type_, value)
        self.taken.append(self.answering.id)

    @precondition(lambda self: self.answering is not None)
    @rule(refused=st.booleans())
    def answer(self, refused: bool) -> None:
        assert self.answering is not None
        if refused:
            self.edge.refuse()
        else:
            response = answer_to(self.answering)
            self.down.append((self.edge.answer(response), type(response), response.id))
        self.answering = None

    @rule(
        lie=st.sampled_from([InferenceResponse(1, SELECTION), information(1), SelectionResponse(1)]),
        id_=st.integers(1, 4),
    )
    def lie(self, lie: Response, id_: int) -> None:
        self.down.append((statement(replace(lie, id=id_)), type(lie), id_))

    @precondition(lambda self: self.down)
    @rule(data=st.data())
    def deliver_response(self, data: st.DataObject) -> None:
        said, kind, id_ = data.draw(st.sampled_from(self.down))
        if self.asked is None or self.asked.id != id_:
            assert self.device.receive(*said) is None
            self.ignored += 1
            return
        fits = kind is type(answer_to(self.asked))
        self.asked = None
        if fits:
            response = self.device.receive(*said)
            assert type(response) is kind
            assert response is not None
            assert response.id == id_
        else:
            with pytest.raises(ProtocolError, match="another question"):
                self.device.receive(*said)

    @invariant()
    def each_request_is_taken_once_and_in_order(self) -> None:
        assert self.taken == sorted(set(self.taken))
        assert len(self.taken) <= MAX_PROCEDURES
        assert self.device.ignored == self.ignored


TestExchange = Exchange.TestCase
