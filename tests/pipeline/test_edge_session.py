from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
import pytest

from models import PartitionStore, Zoo
from pipeline import edge_session, limits
from pipeline.device import DevicePart
from pipeline.edge import Edge
from pipeline.frames import Frame
from pipeline.offers import points
from pipeline.settings import EdgeSettings
from rtc import OUTPUT_DETECTIONS, OUTPUT_NONE, Peer, Status, units_of_frame
from signaling import (
    Bye,
    ParameterSetAck,
    ParameterSetReject,
    ParameterSetRelease,
    ParameterSetReleased,
    PeerFailure,
    Report,
    SignalingClient,
    attributes_of,
)

WAIT = 20.0

Connect = Callable[..., AbstractAsyncContextManager[Any]]
Until = Any


async def test_a_frame_is_answered_with_detections(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray]
) -> None:
    async with connect_stub_ue(edge.url) as ue:
        assert await ue.announce(ue.parameters()) == ParameterSetAck(1)
        units = ue.units(pictures[0])
        ue.send(units)
        result = await ue.result()
        assert (result.status, result.frame_id, result.capture_us) == (Status.OK, 1, 1_000_001)
        assert (result.slices, result.concealed, result.output_kind) == (len(units), 0, OUTPUT_DETECTIONS)
        assert result.output[0] > 0
        assert min(result.decode_us, result.tail_us, result.post_us) > 0
    assert edge.outcomes["ok"] == 1


async def test_units_before_the_acknowledgement_are_dropped_and_counted(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray], until: Until
) -> None:
    async with connect_stub_ue(edge.url) as ue:
        units = ue.units(pictures[0])
        ue.send(units)
        assert await ue.announce(ue.parameters()) == ParameterSetAck(1)
        ue.send(ue.units(pictures[0]))
        assert (await ue.result()).frame_id == 2
    await until(lambda: not edge._sessions)
    assert edge.outcomes["units_unknown_set"] == len(units)
    assert edge.outcomes["ok"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "sha-256:" + 64 * "0"}, "none of those agreed on"),
        ({"partition": 32 * "0"}, "none of those agreed on"),
        ({"variant": "int8"}, "none of those agreed on"),
        ({"profile": "raw-zstd", "calibration": None}, "none of those agreed on"),
        ({"calibration": "sha-256:" + 64 * "0"}, "none of those agreed on"),
        ({"direction": "down"}, "direction up"),
        ({"tensors": ()}, "crossing tensors are Conv__979:0"),
    ],
)
async def test_a_parameter_set_that_was_not_agreed_on_is_refused(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray], change: dict[str, Any], reason: str
) -> None:
    async with connect_stub_ue(edge.url) as ue:
        announced = ue.parameters()
        if "tensors" in change:  # of the right number and size, but another name
            change = {"tensors": tuple(type(spec)("other", spec.dtype, spec.shape) for spec in announced.tensors)}
        refused = await ue.announce(ue.parameters(**change))
        assert isinstance(refused, ParameterSetReject)
        assert reason in refused.reason
        ue.send(ue.units(pictures[0]))  # of the refused set: dropped
        # The id is free, and the session goes on.
        assert await ue.announce(announced) == ParameterSetAck(1)
        ue.send(ue.units(pictures[0]))
        assert (await ue.result()).frame_id == 2


async def test_an_incomplete_frame_is_answered_at_its_deadline_with_what_arrived(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray], until: Until
) -> None:
    async with connect_stub_ue(edge.url) as ue:
        await ue.announce(ue.parameters(deadline_ms=300))
        ue.send(ue.units(pictures[0]))
        assert (await ue.result()).status is Status.OK
        units = ue.units(pictures[0])
        ue.send(units[1:])
        result = await ue.result()
        assert (result.status, result.output_kind) == (Status.INCOMPLETE, OUTPUT_DETECTIONS)
        assert result.received_flags() == [False] + [True] * (len(units) - 1)
        assert 0 < result.concealed < 1
        # From now on a result may be lost, too.
        assert ue.results_repeated <= 1
        ue.send(ue.units(pictures[0]))
        assert (await ue.result()).status is Status.OK
        await until(lambda: ue.results_repeated == 2)


async def test_of_frames_that_come_too_fast_each_is_answered_once(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray]
) -> None:
    frames = 12
    async with connect_stub_ue(edge.url) as ue:
        await ue.announce(ue.parameters())
        coded = [ue.units(pictures[i % len(pictures)]) for i in range(frames)]
        for units in coded:
            ue.send(units)
        results = [await ue.result() for _ in range(frames)]
        assert sorted(result.frame_id for result in results) == list(range(1, frames + 1))
        statuses = {result.frame_id: result.status for result in results}
        assert statuses[frames] is Status.OK  # the newest is never the one to give way
        assert Status.SUPERSEDED in statuses.values()
        superseded = [result for result in results if result.status is Status.SUPERSEDED]
        assert all(result.output_kind == OUTPUT_NONE and result.tail_us == 0 for result in superseded)


async def test_an_older_frame_never_takes_the_place_of_a_newer_one(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray]
) -> None:
    async with connect_stub_ue(edge.url) as ue:
        await ue.announce(ue.parameters())
        older, newer = ue.units(pictures[0]), ue.units(pictures[1])
        ue.send(newer)
        ue.send(older[:1])  # held up on its way
        results = {result.frame_id: result.status for result in [await ue.result(), await ue.result()]}
        assert results == {1: Status.SUPERSEDED, 2: Status.OK}


@contextlib.asynccontextmanager
async def busy(edge: Edge) -> AsyncIterator[None]:
    """All threads of the edge compute for others."""
    free = threading.Event()
    count = edge.settings.workers or 1
    started = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()

    def compute() -> None:
        loop.call_soon_threadsafe(started.release)
        assert free.wait(WAIT)

    jobs = [asyncio.create_task(edge._pool.workers.run(compute)) for _ in range(count)]
    for _ in jobs:
        await started.acquire()
    try:
        yield
    finally:
        free.set()
        await asyncio.gather(*jobs)


async def test_a_frame_gives_way_to_a_newer_one_until_it_is_begun(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray]
) -> None:
    async with connect_stub_ue(edge.url) as ue:
        await ue.announce(ue.parameters())
        async with busy(edge):
            ue.send(ue.units(pictures[0]))
            ue.send(ue.units(pictures[1]))
            first = await ue.result()
            assert (first.frame_id, first.status) == (1, Status.SUPERSEDED)
        second = await ue.result()
        assert (second.frame_id, second.status) == (2, Status.OK)


async def test_frames_that_later_ones_are_predicted_from_are_decoded_all_the_same(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray]
) -> None:
    point = points(Zoo())[0]  # klt
    part = DevicePart(point, PartitionStore(), provider="cpu", threads=1, max_payload=1000)
    async with connect_stub_ue(edge.url, point) as ue:
        await ue.announce(ue.parameters())
        async with busy(edge):
            for number in range(1, 4):
                coded = part.process(Frame(pictures[0], number, 0.0)).coded
                ue.send(units_of_frame(1, number, number, coded.slices, coded.intra, coded.reference))
            await ue.announce(ue.parameters(2, partition=32 * "0"))  # all three wait now
        results = [await ue.result() for _ in range(3)]
        statuses = [(result.frame_id, result.status, result.decoded) for result in results]
        assert statuses == [(1, Status.SUPERSEDED, True), (2, Status.SUPERSEDED, True), (3, Status.OK, False)]
        assert all(result.decode_us and not result.tail_us for result in results[:2])


async def test_a_frame_that_waited_too_long_for_a_thread_is_late(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray]
) -> None:
    async with connect_stub_ue(edge.url) as ue:
        await ue.announce(ue.parameters(budget_ms=50))
        async with busy(edge):
            ue.send(ue.units(pictures[0]))
            sent = time.monotonic()
            while time.monotonic() < sent + 0.1:  # round trips until the budget is used up for sure
                await ue.announce(ue.parameters(2, partition=32 * "0"))
        result = await ue.result()
        assert (result.status, result.output_kind) == (Status.LATE, OUTPUT_NONE)


async def test_a_frame_whose_time_is_over_is_answered_as_late(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray]
) -> None:
    async with connect_stub_ue(edge.url) as ue:
        await ue.announce(ue.parameters(budget_ms=1))
        units = ue.units(pictures[0])
        ue.send(units[:1])
        sent = time.monotonic()
        while time.monotonic() < sent + 0.01:  # round trips until the budget is used up for sure
            await ue.announce(ue.parameters(2))
            ue.say(ParameterSetRelease(2))
            assert await ue.message() == ParameterSetReleased(2)
        ue.send(units[1:])
        assert (await ue.result()).status is Status.LATE


async def test_release_answers_what_is_open_and_forgets_the_set(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray]
) -> None:
    async with connect_stub_ue(edge.url) as ue:
        await ue.announce(ue.parameters())
        ue.send(ue.units(pictures[0])[:-1])
        ue.say(ParameterSetRelease(1))
        assert await ue.message() == ParameterSetReleased(1)
        result = await ue.result()
        assert (result.frame_id, result.status) == (1, Status.ERROR)
        ue.send(ue.units(pictures[0]))  # under no set
        assert await ue.announce(ue.parameters()) == ParameterSetAck(1)
        ue.send(ue.units(pictures[0]))
        assert (await ue.result()).frame_id == 3


async def test_coded_data_that_is_garbage_costs_only_its_frame(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray]
) -> None:
    async with connect_stub_ue(edge.url) as ue:
        await ue.announce(ue.parameters())
        units = ue.units(pictures[0])
        ue.send([unit[:20] + os.urandom(len(unit) - 20) for unit in units])
        result = await ue.result()
        assert (result.status, result.concealed) == (Status.INCOMPLETE, 1.0)
        ue.send(ue.units(pictures[0]))
        assert (await ue.result()).status is Status.OK


async def test_garbage_on_every_channel_is_counted_and_the_session_goes_on(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray], until: Until
) -> None:
    async with connect_stub_ue(edge.url) as ue:
        control, intermediate, result = ue.peer._channels
        await ue.announce(ue.parameters())
        for channel in (control, intermediate, result):
            channel.send(b"")
            channel.send("")
            channel.send(os.urandom(500))
            channel.send("text " * 100)
        control.send('{"type": "aips", "id": 1}')
        control.send('{"type": "aips-ack", "id": 77}')  # ours to send, not the UE's
        control.send('{"type": "of a later version"}')
        ue.say(PeerFailure("trouble", "with the camera"))
        ue.say(Report({"loss": 0.5}))
        assert isinstance(await ue.announce(ue.parameters()), PeerFailure)  # announced twice
        intermediate.send(ue.units(pictures[0])[0][:19])
        ue.send(ue.units(pictures[0]))
        assert (await ue.result()).frame_id == 2
    await until(lambda: not edge._sessions)
    assert edge.outcomes["messages_malformed"] >= 5
    assert edge.outcomes["messages_wrong_type"] >= 5
    assert edge.outcomes["ignored_control_messages"] == 2
    assert edge.outcomes["reports"] == 1
    assert edge.outcomes["messages_failed_callbacks"] == 0


async def test_goodbye_frees_the_slot_at_once(edge: Edge, connect_stub_ue: Connect, until: Until) -> None:
    async with connect_stub_ue(edge.url) as ue:
        assert edge.sessions == 1
        ue.say(Bye("enough"))
        assert await ue.message() == Bye("the UE said goodbye: enough")
        async with asyncio.timeout(WAIT):
            assert await ue.signaling.closed == "closed"
        assert edge.sessions == 0


async def test_a_silent_ue_counts_as_lost(edge: Edge, connect_stub_ue: Connect, until: Until) -> None:
    async with connect_stub_ue(edge.url) as ue:
        ue.peer._timer.cancel()  # no heartbeats any more, while everything below still lives
        silent = time.monotonic()
        await until(lambda: edge.sessions == 0)
        assert 1.0 < time.monotonic() - silent < 3.5


async def test_the_loss_of_the_signalling_socket_alone_ends_nothing(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray], until: Until
) -> None:
    async with connect_stub_ue(edge.url) as ue:
        await ue.announce(ue.parameters())
        ue.signaling._socket._response.connection.transport.abort()
        await until(lambda: not edge._server._sessions)
        ue.send(ue.units(pictures[0]))
        assert (await ue.result()).status is Status.OK
        assert edge.sessions == 1


async def test_a_ue_that_takes_its_offer_back_frees_the_slot_before_the_channels_open(
    edge: Edge, device: Any, until: Until
) -> None:
    async with Peer(bind="127.0.0.1") as peer:
        offer = await peer.create_offer(attributes_of([device.point.offer(30.0)]))
        async with SignalingClient(edge.url) as client:
            await client.connect(offer)
            assert edge.sessions == 1
        started = time.monotonic()
        await until(lambda: edge.sessions == 0)
        assert time.monotonic() - started < edge_session.OPEN_TIMEOUT / 3


async def test_a_ue_that_never_comes_does_not_hold_its_slot(
    edge: Edge, device: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_session, "OPEN_TIMEOUT", 0.05)
    async with Peer(bind="127.0.0.1") as peer, SignalingClient(edge.url) as client:
        await client.connect(await peer.create_offer(attributes_of([device.point.offer(30.0)])))
        async with asyncio.timeout(WAIT):
            assert await client.closed == "closed"
        assert edge.sessions == 0


async def test_a_session_whose_worker_fails_ends_instead_of_lingering(
    connect_stub_ue: Connect, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of the test's making")

    async with Edge(EdgeSettings("127.0.0.1:0")) as edge, connect_stub_ue(edge.url) as ue:
        await ue.announce(ue.parameters())
        monkeypatch.setattr(edge_session, "pack_result", broken)
        ue.send(ue.units(pictures[0]))
        assert await ue.message() == Bye("the edge failed")


@pytest.mark.parametrize("what", ["units", "control messages"])
async def test_a_ue_that_sends_too_much_is_first_ignored_and_then_sent_away(
    edge: Edge, connect_stub_ue: Connect, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(limits, "GENEROSITY", 0.1)
    monkeypatch.setattr(limits, "CONTROL_RATE", 20.0)
    async with connect_stub_ue(edge.url) as ue:
        control, intermediate, _ = ue.peer._channels
        for _ in range(400):
            if what == "units":
                intermediate.send(b"no unit")
            else:
                control.send("{}")
        assert await ue.message() == Bye(f"the UE sends too many {what}")
    assert edge.outcomes[f"{what.replace(' ', '_')}_beyond_limit"] >= 40
