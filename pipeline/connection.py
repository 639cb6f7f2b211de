"""One negotiated session with an edge: signalling, the peer connection, the parameter set, and the lane for frames.

A `UeSession` has one; when it is lost, another one after it; and two for the moment in which it moves to another edge.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from models.task import TENSORS
from pipeline.deciding import Rates, decided
from pipeline.offers import offers, output_profile
from pipeline.privacy import refuse_pictures, without_pictures
from pipeline.remote import RemoteLane
from pipeline.settings import DEFAULT_FPS, UeSettings, ice_server
from pipeline.tensors_down import OutputReceiver
from pipeline.uplink import Uplink
from rtc import Peer, intermediate_attributes
from signaling import (
    Bye,
    Drain,
    ParameterSet,
    ParameterSetAck,
    ParameterSetReject,
    ParameterSetRelease,
    ParameterSetReleased,
    PeerFailure,
    SentSets,
    SignalingClient,
    attributes_of,
    check_answer,
    offers_of,
    parse_control,
    resume_attribute,
    serialise_control,
)
from splitrtc_errors import ConnectionLost, NegotiationTimeout, ProtocolError

if TYPE_CHECKING:
    from pipeline.device import Device
    from pipeline.emulated_link import EmulatedLink
    from pipeline.offers import OperatingPoint
    from pipeline.parts import DeviceParts
    from signaling import ControlMessage, SplitOffer
    from signaling.client import Ending

__all__ = ["Connection"]

logger = logging.getLogger(__name__)

FRAMES_WAITED_FOR = 6
"""Frame periods after its first slice for which the edge waits for the rest of a frame at most.

Usually it gives up much earlier, when no more of it is to be expected. This is for a link that has become so slow that
a frame takes longer than lately."""


class Connection:
    """From the first word of signalling to the goodbye. Made, used and closed in the thread of the event loop."""

    def __init__(
        self,
        url: str,
        settings: UeSettings,
        parts: DeviceParts,
        resume_id: str,
        counters: Counter[str],
        link: EmulatedLink | None = None,
        rates: Rates | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: where the edge is.
            settings: what is wanted of it.
            parts: what the device can offer, and do.
            resume_id: by which the edge knows that this connection takes the place of an earlier one.
            counters: counts what came and could not be used, by kind.
            link: through which everything goes, if the settings want one.
            rates: what earlier connections learned of the links to edges; this one adds to it.
        """
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done, with the reason, when the session is over: nothing in flight will be answered."""
        self.drained: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        """Done when the edge asks to leave it: when it will end the session, in seconds of the monotonic clock."""
        self.url = url
        self.resume_id = resume_id
        self._settings = settings
        self._parts = parts
        self._counters = counters
        self._link = link
        self._rates = rates or Rates()
        self._loop = asyncio.get_running_loop()
        self._stack = contextlib.AsyncExitStack()
        self._peer: Peer
        self._sets = SentSets()
        self._set: ParameterSet | None = None
        self._set_answered = asyncio.Event()
        self._outputs: OutputReceiver | None = None
        self._uplink: Uplink | None = None
        self._closing: asyncio.Task[None] | None = None
        self._connecting: asyncio.Timeout | None = None
        self._waiting_for = ""

    @property
    def lane(self) -> Uplink:
        """The way for frames. Exists from when `open` has returned."""
        assert self._uplink is not None, "the connection was never opened"
        return self._uplink

    async def close(self) -> None:
        """Say goodbye and free everything. May be called again, and at any time."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # Shielded, because a close of which half is done could not be resumed.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._set is not None:
            self._say(Bye("the UE ends the session"))
        self._end("the session was closed")
        await self._stack.aclose()

    # Connecting (TR 26.927 clause 5.3.5, steps 3 to 13).

    async def open(self) -> None:
        """Connect; whatever it raises, everything is free then.

        Raises Unreachable, NegotiationTimeout, ConnectionLost, a kind of Rejected, ProtocolError, UnknownModel or
        ModelError; GoAlone when the decision is that the device needs no edge.
        """
        try:
            await self._connect_in_time()
        except BaseException:
            await self.close()
            raise

    async def _connect_in_time(self) -> None:
        limit = self._settings.timeout
        try:
            async with asyncio.timeout(limit) as self._connecting:
                await self._connect()
        except NegotiationTimeout:
            raise
        except TimeoutError as error:
            if self.ended.done():
                raise ConnectionLost(self.ended.result()) from error
            raise NegotiationTimeout(f"no session within {limit:g} s: {self._waiting_for}") from error
        finally:
            self._connecting = None

    async def _connect(self) -> None:
        settings = self._settings
        self._waiting_for = "no connection to the edge"
        url = self.url if self._link is None else await self._link.route(self.url)
        offered = without_pictures(await self._parts.offered(url), settings.privacy)
        fps = settings.fps or DEFAULT_FPS
        if settings.decide == "offer":
            # The likely head loads while the network does its part.
            self._parts.preload(offered[0])
        client = SignalingClient(url, token=settings.token, ca=settings.ca, fingerprint=settings.fingerprint)
        signaling = await self._stack.enter_async_context(client)
        signaling.closed.add_done_callback(self._on_signaling_closed)
        peer = Peer([ice_server(url) for url in settings.ice_servers], settings.media_bind_to(self.url))
        self._peer = await self._stack.enter_async_context(peer)
        peer.on_control = self._on_control
        peer.on_closed = self._end
        if settings.decide != "offer":
            self._waiting_for = "the edge did not answer the request"
            rate = self._rates.to(self.url)
            offered = [await decided(signaling, settings, offered, self.resume_id, self._parts.executor, rate)]
            self._parts.preload(offered[0])
        lines = offers(offered, fps)
        attributes = [*attributes_of(lines), resume_attribute(self.resume_id)]
        self._waiting_for = "the edge did not answer the offer"
        offer = await peer.create_offer(attributes, video=any(point.is_video for point in offered))
        if self._link is not None:
            offer = await self._link.rewrite(offer, "ue")
        answer = await signaling.connect(offer)
        agreed = check_answer(lines, offers_of(intermediate_attributes(answer)))
        active = agreed[0]
        for point in offered:
            if point.matches(active):
                refuse_pictures(point, settings.privacy)
        self._outputs = self._receiver_of_outputs(offered, agreed)
        wanted = next(o for o in lines if (o.digest, o.partition) == (active.digest, active.partition))
        if active.profile != wanted.profile:
            logger.warning(
                "the edge chose %s, not %s: it accepts other profiles, or has another calibration file",
                active.profile,
                wanted.profile,
            )
        if self._link is not None:
            answer = await self._link.rewrite(answer, "edge")
        await peer.accept_answer(answer)
        device = await self._device_for(active)
        self._waiting_for = "the edge answered, but the media connection did not come up; is UDP blocked?"
        await peer.opened(settings.timeout)
        self._waiting_for = "the edge did not acknowledge the parameter set"
        refuse_pictures(device.point, settings.privacy)
        set_id = await self._announce(device, active.fps)
        decoding = device.point.card.decoding
        threshold = settings.threshold if settings.threshold is not None else decoding.display_score if decoding else 0
        lane = RemoteLane if device.point.is_video else Uplink
        self._uplink = lane(
            peer,
            device,
            set_id,
            budget=settings.budget,
            threshold=threshold,
            counters=self._counters,
            fps=active.fps if active.fps < fps else None,
            outputs=self._outputs,
        )

    def _receiver_of_outputs(
        self, offered: Sequence[OperatingPoint], agreed: Sequence[SplitOffer]
    ) -> OutputReceiver | None:
        """For a model that gives tensors, what receives them; None for one that detects."""
        point = next(point for point in offered if point.matches(agreed[0]))
        if point.card.task != TENSORS:
            return None
        wanted = replace(point.output_offer(agreed[0].fps), profile=output_profile(agreed))
        outputs = OutputReceiver(point.card, wanted, self._counters, self._end)
        self._stack.push_async_callback(outputs.close)
        return outputs

    async def _device_for(self, active: SplitOffer) -> Device:
        """The device's part for what the edge chose. Not under the time limit: it is slow the first time."""
        assert self._connecting is not None
        if not self.ended.done():  # else it is due already
            self._connecting.reschedule(None)
        device = await self._parts.get(active)
        if self.ended.done():
            raise ConnectionLost(self.ended.result())
        self._connecting.reschedule(self._loop.time() + self._settings.timeout)
        return device

    async def _announce(self, device: Device, fps: float) -> int:
        """Announce the parameter set and wait until it may be used; returns its id."""
        wanted = device.point.parameter_set(
            device.crossing, deadline=FRAMES_WAITED_FOR / fps, budget=self._settings.budget
        )
        self._set = self._sets.announce(wanted)
        self._say(self._set)
        await self._set_answered.wait()
        if not self._sets.usable(self._set.id):
            raise ProtocolError("the edge refused the parameter set that follows from its own answer")
        if self._outputs is not None and not self._outputs.ready:
            raise self._outputs.refused or ProtocolError("the edge announced no parameter set of the model's outputs")
        return self._set.id

    def _say(self, message: ControlMessage) -> None:
        with contextlib.suppress(ConnectionLost):  # on_closed has told, or will
            self._peer.send_control(serialise_control(message))

    # The peer's word, and the end.

    def _on_control(self, text: str) -> None:
        match parse_control(text):
            case ParameterSetAck() | ParameterSetReject() | ParameterSetReleased() as message:
                if self._sets.receive(message) is not None:
                    self._set_answered.set()
            case ParameterSet() | ParameterSetRelease() as message if self._outputs is not None:
                if (answer := self._outputs.control(message)) is not None:
                    self._say(answer)
            case PeerFailure(code, detail):
                logger.warning("the edge reports %s: %s", code, detail)
            case Drain(within_ms) if not self.drained.done():
                self.drained.set_result(time.monotonic() + within_ms / 1000)
            case Bye(reason):
                self._end(f"the edge said goodbye: {reason}")
            case _:
                self._counters["ignored_control_messages"] += 1

    def _on_signaling_closed(self, ending: asyncio.Future[Ending]) -> None:
        # The loss of the socket alone ends nothing; only the edge's word does.
        if not ending.cancelled() and ending.result() == "closed":
            self._end("the edge closed the session")

    def _end(self, reason: str) -> None:
        if self.ended.done():
            return
        self.ended.set_result(reason)
        if self._uplink is not None:
            self._rates.learn(self.url, self._uplink.statistics, time.monotonic())
        if self._connecting is not None and not self._connecting.expired():
            self._connecting.reschedule(self._loop.time())
        if self._uplink is not None:
            self._uplink.end()
