"""The edge service: admission, negotiation, sessions, health, drain (TR 26.927: Media AF and Media AS)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from models import PartitionStore
from pipeline.appraisal import Appraisal
from pipeline.edge_session import EdgeSession
from pipeline.library import Catalogue, Library
from pipeline.manifest import make_manifest
from pipeline.negotiation import information, point_of, selected
from pipeline.offers import output_profile
from pipeline.remote_session import VideoSession
from pipeline.reservations import RESERVATION, Reservations
from pipeline.settings import EdgeSettings, ice_server
from pipeline.shelf import Shelf
from pipeline.tails import Tail, TailPool
from pipeline.tls import server_context
from rtc import Peer, intermediate_attributes
from signaling import (
    DRAINING,
    EDGE_FAILURE,
    EDGE_FULL,
    ConnectRequest,
    InferenceRequest,
    InferenceResponse,
    InformationRequest,
    SelectionRequest,
    SelectionResponse,
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
from signaling.admin import ModelAdmin
from signaling.manifest import STATES, Load, manifest_bytes
from splitrtc_errors import ModelError, Rejected, SinkError, SplitRtcError, UnknownModel

if TYPE_CHECKING:
    from ssl import SSLContext

    from models import ModelCard
    from signaling import Manifest, Selection, SplitOffer
    from signaling.applications import Request, Response

__all__ = ["Edge", "serve_until_stopped"]

logger = logging.getLogger(__name__)

RETRY_AFTER = 5.0
"""Seconds that a UE is asked to wait when the edge is full."""
LOOK_EVERY = 1.0
"""Seconds after which an edge looks again whether its models have changed."""
STOCK_TIME = 20.0
"""Seconds that a request waits for files that are being made and costs being measured, once in an edge's life."""

T = TypeVar("T")


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
        self._catalogue = Catalogue((), ())
        self._library: Library
        self._chores = ThreadPoolExecutor(1, thread_name_prefix="edge chores")
        self._keeper: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        """Set when somebody wants to know what is served: what can be had shall be ready soon."""
        self._stocked = asyncio.Event()
        """The files of the preferred cut can be had."""
        self._appraised = asyncio.Event()
        """Those of all cuts, and it is known what they cost."""
        store = PartitionStore()
        self._shelf = Shelf(store)
        self._pool = TailPool(
            store,
            self.settings.provider,
            self.settings.threads,
            workers=self.settings.workers,
            time_limit=self.settings.time_limit,
        )
        self._warm: dict[str, Tail] = {}
        """One for each model, by its digest: that of the default cut."""
        self._is_warm = False
        self._appraisal = Appraisal(store, self.settings.provider, self.settings.threads)
        self._places: set[_Place] = set()
        self._reservations: Reservations[_Place] = Reservations(self._pool, self._places.discard)
        self._draining = False
        self._closing: asyncio.Task[None] | None = None
        self._sessions: dict[asyncio.Task[None], EdgeSession] = {}
        self._ended = asyncio.Event()
        admin_token, folders = self.settings.admin_token, self.settings.models
        self._admin = None if admin_token is None else ModelAdmin(folders[0], admin_token)
        self._server = SignalingServer(
            self.settings.listen,
            self,
            token=self.settings.token,
            ready=self._ready,
            negotiate=self._negotiate,
            manifest=self._manifest,
            find_file=self._shelf.find,
            routes=self._admin.routes() if self._admin else (),
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
            catalogue = await self._in_thread(self._prepare)
            self._catalogue = catalogue  # who comes before all is warm waits for one tail alone
            await self._server.start(self._ssl)
            await self._adopt(catalogue)
            self._is_warm = True
            self._keeper = asyncio.create_task(self._keep_library(), name="library")
            self._keeper.add_done_callback(_tell_failure)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        # A thread of its own: one of the loop's default pool would be left to whoever owns the loop.
        return await asyncio.get_running_loop().run_in_executor(self._chores, work)

    def _prepare(self) -> Catalogue:
        """In a thread: read certificates, cards and calibrations."""
        host, _ = parse_listen(self.settings.listen)
        self._ssl, self.fingerprint = server_context(self.settings, host)
        self._library = Library(self.settings)
        return self._library.read()

    async def _adopt(self, catalogue: Catalogue) -> None:
        """Serve these models from now on, each with a warm tail; one that cannot be loaded is left out."""
        error: ModelError | None = None
        for card in catalogue.cards:
            try:
                await self._warm_up(card)
            except ModelError as failure:
                error = failure
                catalogue = catalogue.without(card)
                if self.settings.model:
                    break
                self._library.leave_out(card.path, failure)
        if error is not None and not (catalogue.points and not self.settings.model):
            raise error
        self._catalogue = catalogue
        kept = {card.digest for card in catalogue.cards}
        for digest in self._warm.keys() - kept:
            self._pool.release(self._warm.pop(digest))  # sessions that run have it too

    async def _warm_up(self, card: ModelCard) -> None:
        if card.digest not in self._warm:
            self._warm[card.digest] = await self._pool.acquire(card, card.default_partition.tensors)

    async def _keep_library(self) -> None:
        """Follow what is added to the models' folders, replaced and withdrawn; have ready what UEs may fetch."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await self._asked.wait()
            try:
                if await self._in_thread(self._library.has_changed):
                    await self._adopt(await self._in_thread(self._library.read))
            except UnknownModel as error:
                logger.warning("no model is left: %s", error)
                await self._adopt(Catalogue((), ()))
            except SplitRtcError as error:
                logger.warning("the models stay what they were: %s", error)
            points = self._catalogue.splits
            if not self._stocked.is_set():
                preferred = [point for point in points if point.partition == points[0].partition]
                await self._in_thread(partial(self._shelf.stock, preferred))
                self._stocked.set()
            await self._in_thread(partial(self._shelf.stock, points))
            await self._in_thread(partial(self._appraisal.measure, self._catalogue.points))
            self._appraised.set()
            self._asked.clear()

    async def _manifest(self) -> bytes:
        """For ``/manifest``: what is served now, and what of it can be had; of an edge that has just started, soon."""
        return manifest_bytes(await self._describe(self._stocked))

    async def _describe(self, ready: asyncio.Event | None = None) -> Manifest:
        """What is served, when ``ready`` is set: by default, when all is known of it."""
        self._asked.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOCK_TIME):
                await (ready or self._appraised).wait()
        _, details = self._ready()
        full = len(self._places) >= self.settings.max_sessions
        state = "full" if details["status"] == "ready" and full else details["status"]
        load = Load(len(self._places), self.settings.max_sessions, self._pool.queue_ms)
        if state not in STATES or (state == "ready" and not self._appraised.is_set()):
            state = "warming"
        return make_manifest(self._catalogue.points, self._shelf, self._appraisal, state=state, load=load)

    async def _negotiate(self, request: Request, session: SignalingSession) -> Response:
        """Answer a request of the TR's procedures (called by the signalling server); a Rejected says why not."""
        self._reservations.cancel(session)
        match request:
            case InformationRequest():
                return information(await self._describe(), request)
            case InferenceRequest(id_, need, resume):
                manifest = await self._describe()
                if self._last_session(resume) is not None:  # whose place is free for this one
                    manifest = replace(manifest, state="ready", load=replace(manifest.load, sessions=0))
                selection = selected(manifest, need, RETRY_AFTER)
                return InferenceResponse(id_, selection, await self._reserve(selection, resume, session))
            case SelectionRequest(id_, selection, resume):
                return SelectionResponse(id_, await self._reserve(selection, resume, session))

    async def _reserve(self, selection: Selection, resume_id: str | None, session: SignalingSession) -> float | None:
        """Allocate what was selected (steps 5a, 7b): a place, and the tail loaded and warm; for how many ms."""
        if selection.mode == "local":
            return None
        point = point_of(selection, self._catalogue.points)
        self._check_open()
        await self._reservations.reserve(session, self._place_for(resume_id), point)
        return 1e3 * RESERVATION

    async def wait(self) -> None:
        """Return when the edge is closed."""
        await self._ended.wait()

    async def drain(self, seconds: float) -> None:
        """Take no new sessions, tell the running ones to leave; return when all have left, or the time is over.

        They are served as ever until then. What is left when the edge is closed ends with that.
        """
        self._draining = True
        for session in self._sessions.values():
            session.drain(seconds)
        if self._sessions:
            await asyncio.wait(self._sessions, timeout=seconds)

    async def close(self) -> None:
        """Take no new sessions, end the running ones with a goodbye, free everything. May be called again."""
        self._draining = True
        self._shelf.stop()
        self._appraisal.stop()
        for event in (self._stocked, self._appraised):
            event.set()  # nobody shall wait for what does not come any more
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # Shielded, because a close of which half is done could not be resumed.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for session in self._sessions.values():
            session.end("the edge closes")
        await asyncio.gather(*self._sessions, return_exceptions=True)
        await self._server.close()
        if self._admin is not None:
            self._admin.close()
        self._reservations.close()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._warm.clear()
        await self._pool.close()
        await self._in_thread(_nothing)  # what still runs there is waited for without blocking the loop
        self._chores.shutdown()
        self._ended.set()

    async def connect(self, request: ConnectRequest) -> str:
        """Answer a UE's offer (called by the signalling server); a Rejected says why not.

        TR 26.927 clause 5.2.3.2: resources are allocated (the tail loaded and warm) before the answer.
        """
        kept = self._reservations.claim(request.session)
        place = None if kept is None else kept[0]
        try:
            self._check_open()
            attributes = intermediate_attributes(request.offer)
            resume_id = resume_id_of(attributes)
            # All before the first await: however many come at once, no more than the limit gets in.
            if place is None:
                place = self._place_for(resume_id)
            place.resume_id = resume_id
            return await self._admit(request, offers_of(attributes), place)
        except BaseException:
            if place is not None:
                self._places.discard(place)
            self.outcomes["sessions_refused"] += 1
            raise
        finally:
            if kept is not None:
                self._pool.release(kept[1])  # the session has it, too

    def _check_open(self) -> None:
        """Raise a Rejected when there can be no new sessions."""
        if self._draining:
            raise _draining()
        if self._pool.workers.exhausted:
            raise rejection(make_problem(EDGE_FAILURE, "its computations hang; it has to be started again"))

    def _place_for(self, resume_id: str | None) -> _Place:
        """A slot for a UE that comes; that of its own last session first, which it has given up. Raises EdgeFull."""
        if (last := self._last_session(resume_id)) is not None and last.session is not None:
            self._places.remove(last)
            self.outcomes["sessions_replaced"] += 1
            last.session.end("another session of the same UE takes its place")
        if len(self._places) >= self.settings.max_sessions:
            detail = f"all {self.settings.max_sessions} sessions are taken"
            raise rejection(make_problem(EDGE_FULL, detail, retry_after=RETRY_AFTER))
        place = _Place(resume_id)
        self._places.add(place)
        return place

    def _last_session(self, resume_id: str | None) -> _Place | None:
        """Where the UE of this id has a session already."""
        # One that is still being admitted keeps its slot: what it has begun to load and to gather counts.
        mine = (place for place in self._places if place.session is not None and place.resume_id is not None)
        return next((place for place in mine if place.resume_id == resume_id), None)

    async def _admit(self, request: ConnectRequest, offers: Sequence[SplitOffer], place: _Place) -> str:
        catalogue = self._catalogue
        chosen = choose(offers, catalogue.acceptables, preference=lambda offer: self._rank(offer.profile))
        # One tail for a session: what is agreed is the active line and its variations on the same cut.
        answered = [
            offer for offer in chosen if (offer.digest, offer.partition) == (chosen[0].digest, chosen[0].partition)
        ]
        agreed = [
            variant
            for offer in answered
            for point in catalogue.points
            if (variant := replace(point, variant=offer.head)).matches(offer)
        ]
        tail = await self._pool.acquire(agreed[0].card, agreed[0].cut.tensors)
        peer: Peer | None = None
        try:
            peer = Peer([ice_server(url) for url in self.settings.ice_servers], self.settings.media_bind)
            fps = max(offer.fps for offer in answered)
            video = agreed[0].is_video
            kind = VideoSession if video else EdgeSession
            session = kind(peer, tail, agreed, fps, self._pool, self.outcomes, output_profile(answered))
            offer = without_resume_id(request.offer)
            answer = await peer.create_answer(offer, attributes_of(answered), video=video)
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

    def _rank(self, profile: str) -> int:
        """Place of a profile, among those that are served, in this edge's preference; 0 for the first."""
        accept = self.settings.accept
        return accept.index(profile) if profile in accept else 0

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
        warm = {tail.card.name: tail.submodel.provider for tail in self._warm.values()}
        hangs = self._pool.workers.exhausted
        state = "draining" if self._draining else "hanging" if hangs else "ready" if self._is_warm else "warming"
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


def _nothing() -> None:
    """What a thread does that shall only be waited for."""


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the models are not followed any more; start the edge again", exc_info=error)


def _draining() -> Rejected:
    return rejection(make_problem(DRAINING, retry_after=RETRY_AFTER))


async def serve_until_stopped(settings: EdgeSettings, ready_file: Path | None = None) -> dict[str, Any]:
    """Serve until a signal, then end the sessions cleanly; a second signal ends the process at once.

    At SIGTERM the sessions have the settings' ``drain_time`` to go elsewhere; SIGINT (Ctrl+C) ends them without that.

    ``ready_file`` is there, written in one step, from when UEs can come until they cannot any more: JSON with ``url``,
    ``pid`` and, for a self-signed certificate, its ``fingerprint``. Returns the summary.
    """
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    drain_time = 0.0

    def stop(number: int) -> None:
        if stopping.is_set():
            logger.warning("second signal: ending at once")
            os._exit(128 + number)
        nonlocal drain_time
        drain_time = settings.drain_time if number == signal.SIGTERM else 0.0
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
        if drain_time and edge.sessions:
            logger.info("%d sessions have %g s to go elsewhere", edge.sessions, drain_time)
            await edge.drain(drain_time)
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
