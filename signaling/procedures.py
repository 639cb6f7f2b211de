"""The negotiation procedures of TR 26.927 clause 5.2.3.2, without the socket: values in, events and values out.

Case 1, the network decides (steps 2a-7a): inference request, inference response. Case 2, the UE decides (2b-9b):
information request and response (not needed where the manifest has told), selection request and response. They travel
as SWAP application messages (TS 26.113 clause 13.2.4.4.9) before the connect, whose ``ai-split`` line then names what
was selected. Each end refuses what does not fit the request: stale, repeated, or not what was asked for.
"""

from __future__ import annotations

from signaling.applications import (
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
    read_request,
    read_response,
    statement,
)
from splitrtc_errors import BadArgument, ProtocolError

__all__ = ["MAX_PROCEDURES", "DeviceProcedures", "EdgeProcedures"]

MAX_PROCEDURES = 16
"""Requests on one socket."""

_ANSWERS: dict[type[Request], type[Response]] = {
    InferenceRequest: InferenceResponse,
    InformationRequest: InformationResponse,
    SelectionRequest: SelectionResponse,
}


class DeviceProcedures:
    """The UE's end: one request at a time, each answered by the edge or given up."""

    def __init__(self) -> None:
        self.ignored = 0
        """Responses that nobody waits for."""
        self._last = 0
        self._pending: Request | None = None

    def request_inference(self, need: Need, resume: str | None = None) -> Statement:
        """Case 1: let the edge decide."""
        return self._ask(InferenceRequest(self._next(), need, resume))

    def request_information(self, need: Need) -> Statement:
        """Case 2: ask for the candidates."""
        return self._ask(InformationRequest(self._next(), need))

    def select(self, selection: Selection, resume: str | None = None) -> Statement:
        """Case 2: tell what was decided."""
        return self._ask(SelectionRequest(self._next(), selection, resume))

    def give_up(self) -> None:
        """Wait no longer: it was refused, or takes too long. An answer that comes all the same is ignored."""
        self._pending = None

    def receive(self, type_: str, value: object) -> Response | None:
        """Take what the edge says; None when nobody waits for it.

        ProtocolError when it cannot be read, or is no answer to what was asked; the request is over then.
        """
        try:
            response = read_response(type_, value)
        except ProtocolError:
            self._pending = None
            raise
        pending = self._pending
        if pending is None or response.id != pending.id:
            self.ignored += 1
            return None
        self._pending = None
        if type(response) is not _ANSWERS[type(pending)]:
            raise ProtocolError("the edge answers another question than was asked")
        if isinstance(response, InferenceResponse) and isinstance(pending, InferenceRequest):
            _check_selection(response.selection, pending.need)
        return response

    def _next(self) -> int:
        return self._last + 1

    def _ask(self, request: Request) -> Statement:
        if self._pending is not None:
            raise BadArgument("one request at a time: give the other one up first")
        self._last, self._pending = request.id, request
        return statement(request)


def _check_selection(selection: Selection, need: Need) -> None:
    """Whatever the edge selects, it is among what was offered to it."""
    named = {selection.profile, (selection.profile or "").partition(":")[0]}
    if selection.mode not in need.modes:
        raise ProtocolError(f"the edge selected mode {selection.mode}, which was not offered")
    if selection.mode == "remote" and need.privacy == "no-pictures":
        raise ProtocolError("the edge selected to be sent pictures, which was refused")
    if selection.mode == "split" and not named & set(need.capabilities.profiles):
        raise ProtocolError("the edge selected a profile that the device does not have")


class EdgeProcedures:
    """The edge's end: requests are answered one at a time, in the order of their ids."""

    def __init__(self) -> None:
        self._last = 0
        self._count = 0
        self._pending: Request | None = None

    def receive(self, type_: str, value: object) -> Request:
        """Take what the UE says; answer it with `answer`, or refuse it and say so with `refuse`.

        ProtocolError when it cannot be read, comes again or late, while another one is answered, or too often.
        """
        request = read_request(type_, value)
        if self._count >= MAX_PROCEDURES:
            raise ProtocolError(f"at most {MAX_PROCEDURES} requests on one socket")
        if self._pending is not None:
            raise ProtocolError("another request is being answered")
        if request.id <= self._last:
            raise ProtocolError("the request's id does not increase")
        self._count += 1
        self._last, self._pending = request.id, request
        return request

    def answer(self, response: Response) -> Statement:
        """The answer to the request that was received."""
        pending, self._pending = self._pending, None
        if pending is None or response.id != pending.id or type(response) is not _ANSWERS[type(pending)]:
            raise BadArgument("this answers no request that was received")
        return statement(response)

    def refuse(self) -> None:
        """The request that was received is not answered."""
        self._pending = None
