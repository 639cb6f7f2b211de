"""The edge service: admission, negotiation, sessions, health, drain (TR 26.927: Media AF and Media AS)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from models import PartitionStore, Zoo
from pipeline.edge_session import EdgeSession
from pipeline.offers import acceptables, output_profile, points
from pipeline.settings import EdgeSettings, ice_server
from pipeline.tails import Tail, TailPool
from pipeline.tls import server_context
from rtc import Peer, intermediate_attributes
from signaling import (
    DRAINING,
    EDGE_FAILURE,
    EDGE_FULL,
    ConnectRequest,
    SignalingServer,
    SignalingSession,
    attributes_of,
    choose,
    make_problem,
    offers_of,
    rejection,
    resume_id_of,
    without_resume_id,
)
from signaling.addresses import parse_listen
from splitrtc_errors import Rejected, SinkError, UnknownModel

if TYPE_CHECKING:
    from ssl import SSLContext

    from pipeline.offers import OperatingPoint
    from signaling import Acceptable, SplitOffer

__all__ = ["Edge", "serve_until_stopped"]

logger = logging.getLogger(__name__)

RETRY_AFTER = 5.0
"""Seconds that a UE is asked to wait when the edge is full."""


@dataclass(eq=False, slots=True)
class _Place:
    """A slot that is taken."""

    resume_id: str | None = field(repr=False)
    session: EdgeSession | None = None
    """None while the session is being admitted."""


class Edge:
    """An edge, as an asynchronous context manager.

    ::

        async with Edge(EdgeSettings("127.0.0.1:8787")) as edge:
            await edge.wait()

    Entering listens and warms the zoo's default tails: ``/readyz`` says when. Leaving ends all sessions with a
    goodbye and frees everything: threads, sockets, tasks. Entering raises BadArgument when the address cannot be
    listened on or a certificate cannot be used, UnknownModel, ModelError or MissingDependency when a model or a tail
    cannot be loaded.
    """

    def __init__(self, settings: EdgeSettings | None = None) -> None:
        self.settings = settings or EdgeSettings()
        self.outcomes: Counter[str] = Counter()
        """Frames by status, sessions by how they went, and what came that could not be used."""
        self.fingerprint: str | None = None
        """Of the self-signed certificate, if there is one; known when the edge is entered."""
        self._ssl: SSLContext | None = None
        self._points: Sequence[OperatingPoint] = ()
        self._acceptables: Sequence[Acceptable] = ()
        self._pool = TailPool(
            PartitionStore(),
            self.settings.provider,
            self.settings.threads,
            workers=self.settings.workers,
            time_limit=self.settings.time_limit,
        )
        self._warm: list[Tail] = []
        self._places: set[_Place] = set()
        self._draining = False
        self._closing: asyncio.Task[None] | None = None
        self._sessions: dict[asyncio.Task[None], EdgeSession] = {}
        self._ended = asyncio.Event()
        self._server = SignalingServer(
            self.settings.listen,
            self,
            token=self.settings.token,
            ready=self._ready,
            connect_rate=self.settings.connect_rate,
            allow_origins=self.settings.allow_origins,
        )

    @property
    def url(self) -> str:
        """Where UEs connect."""
        host, _ = parse_listen(self.settings.listen)
        host = f"[{host}]" if ":" in host else host
        return f"{'wss' if self._ssl else 'ws'}://{host}:{self._server.port}"

    @property
    def sessions(self) -> int:
        """Sessions admitted and not yet ended."""
        return len(self._places)

    async def __aenter__(self) -> Self:
        try:
            # An executor of its own: a thread of the loop's default one would be left to whoever owns the loop.
            with ThreadPoolExecutor(1, thread_name_prefix="prepare edge") as executor:
                await asyncio.get_running_loop().run_in_executor(executor, self._prepare)
            await self._server.start(self._ssl)
            for point in self._points:
                if point.cut.default and point.card not in [tail.card for tail in self._warm]:
                    self._warm.append(await self._pool.acquire(point.card, point.cut.tensors))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _prepare(self) -> None:
        """In a thread: read certificates, cards and calibrations."""
        host, _ = parse_listen(self.settings.listen)
        self._ssl, self.fingerprint = server_context(self.settings, host)
        zoo = Zoo(self.settings.models)
        names = self.settings.model or [None]
        every = [point for name in names for point in points(zoo, model=name)]
        # A profile that is named need not be in a card: it may have a step of its own.
        further = [name for name in self.settings.accept if name not in {point.profile for point in every}]
        every += [point for name in names for profile in further for point in points(zoo, model=name, profile=profile)]
        self._points = [point for point in every if self._rank(point.profile) is not None]
        if not self._points:
            raise UnknownModel(f"no model can be run with the profiles {', '.join(self.settings.accept)}")
        self._acceptables = acceptables(self._points)

    async def wait(self) -> None:
        """Return when the edge is closed."""
        await self._ended.wait()

    async def close(self) -> None:
        """Take no new sessions, end the running ones with a goodbye, free everything. May be called again."""
        self._draining = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # Shielded, because a close of which half is done could not be resumed.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for session in self._sessions.values():
            session.end("the edge closes")
        await asyncio.gather(*self._sessions, return_exceptions=True)
        await self._server.close()
        self._warm.clear()
        await self._pool.close()
        self._ended.set()

    async def connect(self, request: ConnectRequest) -> str:
        """Answer a UE's offer (called by the signalling server); a Rejected says why not.

        TR 26.927 clause 5.2.3.2: resources are allocated (the tail loaded and warm) before the answer.
        """
        place: _Place | None = None
        try:
            if self._draining:
                raise _draining()
            if self._pool.workers.exhausted:
                raise rejection(make_problem(EDGE_FAILURE, "its computations hang; it has to be started again"))
            attributes = intermediate_attributes(request.offer)
            # All before the first await: however many come at once, no more than the limit gets in.
            place = self._place_for(resume_id_of(attributes))
            return await self._admit(request, offers_of(attributes), place)
        except BaseException:
            if place is not None:
                self._places.discard(place)
            self.outcomes["sessions_refused"] += 1
            raise

    def _place_for(self, resume_id: str | None) -> _Place:
        """A slot for a UE that comes; that of its own last session first, which it has given up. Raises EdgeFull."""
        for place in self._places:
            # One that is still being admitted keeps its slot: what it has begun to load and to gather counts.
            if place.session is not None and place.resume_id is not None and place.resume_id == resume_id:
                self._places.remove(place)
                self.outcomes["sessions_replaced"] += 1
                place.session.end("another session of the same UE takes its place")
                break
        if len(self._places) >= self.settings.max_sessions:
            detail = f"all {self.settings.max_sessions} sessions are taken"
            raise rejection(make_problem(EDGE_FULL, detail, retry_after=RETRY_AFTER))
        place = _Place(resume_id)
        self._places.add(place)
        return place

    async def _admit(self, request: ConnectRequest, offers: Sequence[SplitOffer], place: _Place) -> str:
        chosen = choose(offers, self._acceptables, preference=lambda offer: self._rank(offer.profile) or 0)
        # One tail for a session: what is agreed is the active line and its variations on the same cut.
        answered = [
            offer for offer in chosen if (offer.digest, offer.partition) == (chosen[0].digest, chosen[0].partition)
        ]
        agreed = [point for offer in answered for point in self._points if point.matches(offer)]
        tail = await self._pool.acquire(agreed[0].card, agreed[0].cut.tensors)
        peer: Peer | None = None
        try:
            peer = Peer([ice_server(url) for url in self.settings.ice_servers], self.settings.media_bind)
            fps = max(offer.fps for offer in answered)
            session = EdgeSession(peer, tail, agreed, fps, self._pool, self.outcomes, output_profile(answered))
            answer = await peer.create_answer(without_resume_id(request.offer), attributes_of(answered))
            if self._draining:  # meanwhile; whoever closes the edge has not seen this session
                raise _draining()
        except BaseException:
            if peer is not None:
                await peer.close()
            self._pool.release(tail)
            raise
        place.session = session
        request.session.on_close = session.end
        task = asyncio.create_task(self._serve(session, request.session, place), name="edge session")
        self._sessions[task] = session
        task.add_done_callback(lambda task: self._sessions.pop(task, None))
        return answer

    def _rank(self, profile: str) -> int | None:
        """Place of a profile in this edge's preference, 0 for the first; None when it is not accepted."""
        accept = self.settings.accept
        if not accept:
            return 0
        return accept.index(profile) if profile in accept else None

    async def _serve(self, session: EdgeSession, signaling: SignalingSession, place: _Place) -> None:
        self.outcomes["sessions_served"] += 1
        try:
            reason = await session.serve()
            logger.info("session ended: %s", reason)
        finally:
            # The slot first: whoever hears the goodbye may come back at once.
            self._places.discard(place)
            await signaling.close()

    def _ready(self) -> tuple[bool, dict[str, Any]]:
        """For ``/readyz``: models warm, provider confirmed, threads that come back, not draining."""
        warm = {tail.card.name: tail.submodel.provider for tail in self._warm}
        hangs = self._pool.workers.exhausted
        state = "draining" if self._draining else "hanging" if hangs else "ready" if warm else "warming"
        return state == "ready", {
            "status": state,
            "hanging_threads": self._pool.hanging,
            "providers": warm,
            "sessions": len(self._places),
            "max_sessions": self.settings.max_sessions,
        }

    def summary(self) -> dict[str, Any]:
        """What happened so far, as plain values."""
        return {"url": self.url, "sessions": len(self._places), **dict(sorted(self.outcomes.items()))}


def _draining() -> Rejected:
    return rejection(make_problem(DRAINING, retry_after=RETRY_AFTER))


async def serve_until_stopped(settings: EdgeSettings, ready_file: Path | None = None) -> dict[str, Any]:
    """Serve until SIGTERM or SIGINT, then end the sessions cleanly; a second signal ends the process at once.

    ``ready_file`` is there, written in one step, from when UEs can come until they cannot any more: JSON with ``url``,
    ``pid`` and, for a self-signed certificate, its ``fingerprint``. Returns the summary.
    """
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set():
            logger.warning("second signal: ending at once")
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    async with Edge(settings) as edge:
        if edge.fingerprint is not None:
            logger.info("self-signed certificate: connect with --fingerprint %s", edge.fingerprint)
        logger.info("edge ready: %s", edge.url)
        if ready_file is not None:
            await loop.run_in_executor(None, _write_ready, ready_file, edge)
        try:
            await stopping.wait()
        finally:
            if ready_file is not None:
                await loop.run_in_executor(None, ready_file.unlink, True)
        logger.info("ending %d sessions", edge.sessions)
    return edge.summary()


def _write_ready(path: Path, edge: Edge) -> None:
    value = {"url": edge.url, "pid": os.getpid(), "fingerprint": edge.fingerprint}
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(value), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise SinkError(f"cannot write the ready file {path}: {error.strerror}") from error
