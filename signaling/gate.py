"""Who gets past the door of the edge's HTTP server, and how the others are told so."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping

from aiohttp import web

from signaling.auth import OriginGuard, TokenGuard
from signaling.limits import ConnectLimiter
from signaling.problems import ORIGIN_NOT_ALLOWED, TOO_MANY_REQUESTS, UNAUTHORIZED, Problem, make_problem

__all__ = ["Gate", "problem_response"]


class Gate:
    """Lets those in who have the token and do not come too often.

    Without a ``token``, web pages come in from ``allow_origins`` and from this machine's own address here alone; and
    what is no WebSocket is asked for at such an address, as a page's own name could be made to lead here. ``rate`` is
    how often one address may come per second in the long run. BadArgument for a token or an origin that is none.
    """

    def __init__(self, token: str | None, rate: float, allow_origins: Iterable[str] = ()) -> None:
        self._guard = TokenGuard(token)
        self._origins = OriginGuard(allow_origins)
        self._anyone = token is None
        self._limiter = ConnectLimiter(rate)

    def refusal(self, request: web.Request, subprotocols: str = "") -> web.Response | None:
        """The answer to a request that is not let in; None to one that is."""
        # Before the token is looked at, so that guessing it is slow, too.
        if wait := self._limiter.admit(request.remote, time.monotonic()):
            seconds = math.ceil(wait)
            problem = make_problem(TOO_MANY_REQUESTS, retry_after=seconds)
            return problem_response(problem, {"Retry-After": str(seconds)})
        headers = request.headers
        if not self._guard.admits(headers.get("Authorization"), subprotocols):
            return problem_response(make_problem(UNAUTHORIZED), {"WWW-Authenticate": "Bearer"})
        host = headers.get("Host", "")
        # Browsers name a page's origin with every WebSocket, but not when it asks the host that it came from.
        origin = headers.get("Origin", None if "Upgrade" in headers else f"http://{host}")
        if self._anyone and not self._origins.admits(origin, host):
            detail = "the edge has no token, and does not know the page, or the name by which it was asked"
            return problem_response(make_problem(ORIGIN_NOT_ALLOWED, detail))
        return None


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> web.Response:
    """The HTTP response that carries a problem document."""
    return web.Response(
        status=problem.status,
        text=json.dumps(problem.to_json()),
        content_type="application/problem+json",
        headers=headers,
    )
