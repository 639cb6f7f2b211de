"""The UE's session: signalling, the peer connection, the parameter set, frames out and results in.

`UeSession` is what ``splitrtc.connect`` returns; what happens to a stream of frames is in `pipeline.run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from models import PartitionStore, Zoo
from pipeline.device import DevicePart
from pipeline.offers import VARIANT, OperatingPoint, points
from pipeline.run import Run
from pipeline.settings import DEFAULT_FPS, UeSettings, ice_server
from pipeline.sinks import open_sink
from pipeline.sources import open_source
from pipeline.uplink import Uplink
from rtc import Peer, RelayThread, intermediate_attributes, parse_link, unit_payload_limit
from signaling import (
    MAX_OFFERS,
    Bye,
    ParameterSet,
    ParameterSetAck,
    ParameterSetReject,
    ParameterSetReleased,
    PeerFailure,
    SentSets,
    SignalingClient,
    attributes_of,
    check_answer,
    offers_of,
    parse_control,
    serialise_control,
)
from signaling.control import MAX_DEADLINE_MS
from splitrtc_errors import BadArgument, ConnectionLost, NegotiationTimeout, ProtocolError

if TYPE_CHECKING:
    from pipeline.outcome import FrameResult
    from pipeline.sinks import Sink
    from pipeline.sources import Source
    from rtc import LinkStatistics
    from signaling import ControlMessage, SplitOffer
    from signaling.client import Ending

__all__ = ["UeSession"]

logger = logging.getLogger(__name__)

FRAMES_WAITED_FOR = 6
"""Frame periods after its first slice for which the edge waits for the rest of a frame at most.

Usually it gives up much earlier, when no more of it is to be expected. This is for a link that has become so slow that
a frame takes longer than lately."""


class UeSession:
    """A session with an edge, as an asynchronous context manager.

    ::

        async with UeSession(UeSettings("ws://gpu-box:8787", token="...")) as session:
            async for result in session.run(0):
                print(result.detections)

    Entering connects; it raises Unreachable, NegotiationTimeout, a kind of Rejected, ProtocolError, UnknownModel or
    ModelError. Leaving says goodbye and frees everything: threads, sockets, tasks. One run at a time.
    """

    def __init__(self, settings: UeSettings) -> None:
        self.settings = settings
        self.counters: Counter[str] = Counter()
        """What came and could not be used, by kind."""
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="head")
        self._chores = ThreadPoolExecutor(1, thread_name_prefix="chores")
        self._zoo = Zoo(settings.models)
        self._store = PartitionStore()
        self._loop: asyncio.AbstractEventLoop
        self._stack = contextlib.AsyncExitStack()
        self._peer: Peer
        self._relay: RelayThread | None = None
        self._sets = SentSets()
        self._set: ParameterSet | None = None
        self._set_answered = asyncio.Event()
        self._uplink: Uplink | None = None
        self._run: Run | None = None
        self._lost: str | None = None
        self._closing: asyncio.Task[None] | None = None
        self._connecting: asyncio.Timeout | None = None
        self._waiting_for = ""

    # The life of the session.

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        try:
            await self._connect_in_time()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Say goodbye and free everything. May be called again, and at any time."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # Shielded, because a close of which half is done could not be resumed.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._run is not None:
            await self._run.aclose()
        if self._set is not None:
            self._say(Bye("the UE ends the session"))
        self._end("the session was closed")
        await self._stack.aclose()
        for executor in (self._worker, self._chores):
            # What still runs is waited for without blocking the loop; then its one thread is idle and ends at once.
            await asyncio.get_running_loop().run_in_executor(executor, _nothing)
            executor.shutdown()

    def run(
        self,
        source: str | int | Path | Source | AsyncIterable[Any],
        *,
        sinks: Sequence[str | Path | Sink | Callable[[FrameResult], object]] = (),
        repeat: bool = False,
        every: bool = False,
    ) -> Run:
        """Start on a source; iterate over what this returns.

        Args:
            source: as for `pipeline.sources.open_source`: a camera's index, a path, a URL, an async iterator, ...
            sinks: as for `pipeline.sinks.open_sink`: files, ``"window"``, functions, ...
            repeat: start a file again at its end.
            every: iterate also over the frames that were dropped or lost.

        Raises BadArgument for a source or a sink that cannot be meant, or when another run is not over.
        """
        if self._run is not None and not self._run.over:
            raise BadArgument("a session has one run at a time: close the other one first")
        if self._lost is not None:
            raise ConnectionLost(self._lost)
        self._run = Run(
            self._way,
            open_source(source, fps=self.settings.fps),
            [open_sink(sink) for sink in sinks],
            repeat=repeat,
            every=every,
        )
        return self._run

    @property
    def point(self) -> OperatingPoint:
        """The active operating point: model, cut and profile."""
        return self._way.device.point

    @property
    def provider(self) -> str:
        """The execution provider that the head really runs on."""
        return self._way.device.provider

    @property
    def statistics(self) -> LinkStatistics:
        """What the answers so far say about the link: goodput, network time, loss, age of results."""
        return self._way.statistics

    @property
    def link(self) -> dict[str, Any] | None:
        """What the emulated link has done so far, as plain values; None without one."""
        if self._relay is None:
            return None
        return {"settings": self.settings.link, **self._relay.to_json()}

    def describe(self) -> dict[str, Any]:
        """The session's mode and operating point, as plain values."""
        point = self.point
        return {
            "mode": "split",
            "model": point.card.name,
            "partition": point.cut.name,
            "profile": point.profile,
            "provider": self.provider,
        }

    @property
    def _way(self) -> Uplink:
        if self._uplink is None:
            raise BadArgument("the session is not connected: use it as `async with`")
        return self._uplink

    # Connecting (TR 26.927 clause 5.3.5, steps 3 to 13).

    async def _connect_in_time(self) -> None:
        limit = self.settings.timeout
        try:
            async with asyncio.timeout(limit) as self._connecting:
                await self._connect()
        except NegotiationTimeout:
            raise
        except TimeoutError as error:
            if self._lost is not None:
                raise ConnectionLost(self._lost) from error
            raise NegotiationTimeout(f"no session within {limit:g} s: {self._waiting_for}") from error
        finally:
            self._connecting = None

    async def _connect(self) -> None:
        settings = self.settings
        self._waiting_for = "no connection to the edge"
        offered = await self._loop.run_in_executor(self._chores, self._offered_points)
        fps = settings.fps or DEFAULT_FPS
        # The likely head loads while the network does its part; when that fails, nobody asks how loading went.
        loading = self._worker.submit(self._load, offered[0])
        client = SignalingClient(settings.url, token=settings.token, ca=settings.ca, fingerprint=settings.fingerprint)
        signaling = await self._stack.enter_async_context(client)
        signaling.closed.add_done_callback(self._on_signaling_closed)
        peer = Peer([ice_server(url) for url in settings.ice_servers], settings.media_bind)
        self._peer = await self._stack.enter_async_context(peer)
        peer.on_control = self._on_control
        peer.on_closed = self._end
        offers = [point.offer(fps) for point in offered]
        self._waiting_for = "the edge did not answer the offer"
        offer = await peer.create_offer(attributes_of(offers))
        if settings.link is not None:
            assert settings.media_bind is not None  # the settings have seen to that
            relay = RelayThread(parse_link(settings.link), settings.media_bind)
            self._relay = await self._stack.enter_async_context(relay)
            offer = await self._relay.rewrite(offer, "ue")
        answer = await signaling.connect(offer)
        active = check_answer(offers, offers_of(intermediate_attributes(answer)))[0]
        if self._relay is not None:
            answer = await self._relay.rewrite(answer, "edge")
        await peer.accept_answer(answer)
        device = await self._device_for(active, offered, loading)
        self._waiting_for = "the edge answered, but the media connection did not come up; is UDP blocked?"
        await peer.opened(settings.timeout)
        self._waiting_for = "the edge did not acknowledge the parameter set"
        set_id = await self._announce(device, active.fps)
        threshold = device.point.card.decoding.display_score if settings.threshold is None else settings.threshold
        self._uplink = Uplink(
            peer,
            device,
            set_id,
            budget=settings.budget,
            threshold=threshold,
            worker=self._worker,
            chores=self._chores,
            counters=self.counters,
        )

    async def _device_for(
        self, active: SplitOffer, offered: Sequence[OperatingPoint], loading: Future[DevicePart]
    ) -> DevicePart:
        """The device's part for what the edge chose. Not under the time limit: it is slow the first time."""
        assert self._connecting is not None
        self._connecting.reschedule(None)
        device = await asyncio.wrap_future(loading)
        if not device.point.matches(active):
            point = next(point for point in offered if point.matches(active))
            device = await self._loop.run_in_executor(self._worker, self._load, point)
        if self._lost is None:
            self._connecting.reschedule(self._loop.time() + self.settings.timeout)
        return device

    def _offered_points(self) -> list[OperatingPoint]:
        settings = self.settings
        found = points(self._zoo, model=settings.model, partition=settings.partition, profile=settings.profile)
        return found[:MAX_OFFERS]

    def _load(self, point: OperatingPoint) -> DevicePart:
        return DevicePart(
            point,
            self._store,
            provider=self.settings.provider,
            threads=self.settings.threads,
            max_payload=unit_payload_limit(),
        )

    async def _announce(self, device: DevicePart, fps: float) -> int:
        """Announce the parameter set and wait until it may be used; returns its id."""
        point = device.point
        self._set = self._sets.announce(
            ParameterSet(
                id=0,
                direction="up",
                model=point.card.digest,
                partition=point.partition,
                variant=VARIANT,
                profile=point.profile,
                calibration=point.calibration.digest if point.calibration else None,
                tensors=device.partition.crossing,
                deadline_ms=min(round(FRAMES_WAITED_FOR / fps * 1000) or 1, MAX_DEADLINE_MS),
                budget_ms=round(self.settings.budget * 1000),
            )
        )
        self._say(self._set)
        await self._set_answered.wait()
        if not self._sets.usable(self._set.id):
            raise ProtocolError("the edge refused the parameter set that follows from its own answer")
        return self._set.id

    def _say(self, message: ControlMessage) -> None:
        with contextlib.suppress(ConnectionLost):  # on_closed has told, or will
            self._peer.send_control(serialise_control(message))

    def _on_control(self, text: str) -> None:
        match parse_control(text):
            case ParameterSetAck() | ParameterSetReject() | ParameterSetReleased() as message:
                if self._sets.receive(message) is not None:
                    self._set_answered.set()
            case PeerFailure(code, detail):
                logger.warning("the edge reports %s: %s", code, detail)
            case Bye(reason):
                self._end(f"the edge said goodbye: {reason}")
            case _:
                self.counters["ignored_control_messages"] += 1

    def _on_signaling_closed(self, ending: asyncio.Future[Ending]) -> None:
        # The loss of the socket alone ends nothing; only the edge's word does.
        if not ending.cancelled() and ending.result() == "closed":
            self._end("the edge closed the session")

    def _end(self, reason: str) -> None:
        """The session is over: nothing in flight will be answered."""
        if self._lost is not None:
            return
        self._lost = reason
        if self._connecting is not None:
            self._connecting.reschedule(self._loop.time())
        if self._uplink is not None:
            self._uplink.end()
        if self._run is not None:
            self._run.interrupt(ConnectionLost(reason))


def _nothing() -> None:
    """What a thread does that shall only be waited for."""
