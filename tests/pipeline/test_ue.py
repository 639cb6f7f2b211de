from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from models import Calibration, Detector, Preprocessor, Zoo, bytes_digest, load_submodel, partition_id
from models.calibration import calibration_bytes
from pipeline.edge import Edge
from pipeline.offers import points
from pipeline.outcome import FrameResult
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession
from rtc import OUTPUT_NONE, Peer, Status, Unit, intermediate_attributes
from rtc.transport import gather_only_on
from signaling import (
    Bye,
    ConnectRequest,
    ParameterSetReject,
    PeerFailure,
    SignalingClient,
    SignalingServer,
    attributes_of,
    offers_of,
)
from splitrtc_errors import (
    BadArgument,
    ConnectionLost,
    NegotiationTimeout,
    NoCommonOperatingPoint,
    ProtocolError,
    SourceError,
    Unreachable,
)

WAIT = 20.0
MODEL = "ssdlite_mbv2_coco_300"

Until = Any

pytestmark = pytest.mark.usefixtures("patient_edges")


def ue(url: str, **settings: Any) -> UeSession:
    """A session whose results are in time on any machine, unless told otherwise."""
    return UeSession(UeSettings(url, **{"budget": 10.0, "timeout": WAIT, **settings}))


async def take(run: Any, count: int = 1) -> list[FrameResult]:
    async with asyncio.timeout(WAIT):
        return [await anext(run) for _ in range(count)]


# What a session computes.


def whole_model(image: np.ndarray, threshold: float) -> Any:
    """What the model finds when it is not cut."""
    card = Zoo().get(MODEL)
    preprocessor = Preprocessor(card)
    found = (
        Detector(card).decode(load_submodel(card.path, "cpu").run([preprocessor.prepare(image)])).at_least(threshold)
    )
    return replace(found, xyxy=preprocessor.undo(found.xyxy, (image.shape[1], image.shape[0])))


async def assert_split_equals_whole(edge: Edge, images: list[np.ndarray], make_feed: Any) -> None:
    feed, detections = make_feed(), 0
    async with ue(edge.url, profile="raw-zstd", threshold=0.3) as session:
        run = session.run(feed)
        for image in images:
            feed.give(image)
            (result,) = await take(run)
            assert (result.status, result.share_received) == ("ok", 1.0)
            assert result.detections is not None
            expected = whole_model(image, 0.3)
            assert result.detections.classes.tolist() == expected.classes.tolist()
            np.testing.assert_allclose(result.detections.scores, expected.scores, atol=1e-4, rtol=0)
            np.testing.assert_allclose(result.detections.xyxy, expected.xyxy, atol=1e-4, rtol=0)
            detections += len(expected)
    assert detections >= len(images)


async def test_split_equals_whole_on_the_bundled_clip(edge: Edge, pictures: list[np.ndarray], make_feed: Any) -> None:
    await assert_split_equals_whole(edge, pictures, make_feed)


async def test_split_equals_whole_on_photos(edge: Edge, shared_dir: Path, make_feed: Any) -> None:
    paths = sorted((shared_dir / "data" / "images").glob("*.jpg"))[::8][:16]
    images = [image for path in paths if (image := cv2.imread(str(path))) is not None]
    assert len(images) == 16
    await assert_split_equals_whole(edge, images, make_feed)


# Frames: every one ends once.


async def test_every_frame_comes_exactly_once_however_it_ended(
    edge: Edge, pictures: list[np.ndarray], make_feed: Any
) -> None:
    feed, frames, heard = make_feed(), 60, list[FrameResult]()
    async with ue(edge.url) as session:
        run = session.run(feed, every=True, sinks=[heard.append])
        feed.give(*[pictures[i % len(pictures)] for i in range(frames)], None)
        async with asyncio.timeout(WAIT):
            results = [result async for result in run]
    assert sorted(result.frame.index for result in results) == list(range(frames))
    assert run.summary.produced == frames == sum(run.summary.outcomes.values())
    assert run.summary.outcomes["ok"] >= 1  # the newest is never replaced
    assert run.summary.outcomes["skipped"] >= 1  # so many at once are too many for any device
    assert [result.frame.index for result in results if result.answered] == sorted(
        result.frame.index for result in results if result.answered
    )
    assert run.unread == 0
    sink = run.to_json()["sinks"]["callback append"]
    assert len(heard) == sink["written"] == frames - sink["dropped"]


async def test_a_picture_in_which_nothing_is_found_is_answered_and_not_dropped(edge: Edge, make_feed: Any) -> None:
    feed = make_feed()
    async with ue(edge.url) as session:
        run = session.run(feed)
        feed.give(np.zeros((48, 64, 3), np.uint8))
        (result,) = await take(run)
        assert result.answered
        assert result.detections is not None
        assert len(result.detections) == 0
        assert (result.status, result.dropped_at) == ("ok", None)
        assert run.summary.dropped_at == {}


async def test_the_times_of_a_frame_add_up(edge: Edge, pictures: list[np.ndarray], make_feed: Any) -> None:
    feed = make_feed()
    async with ue(edge.url) as session:
        run = session.run(feed)
        feed.give(pictures[0])
        (result,) = await take(run)
        stages = result.timings.milliseconds()
        total = stages.pop("total")
        assert sum(stages.values()) == pytest.approx(total, abs=0.01)
        assert total == pytest.approx(1000 * (result.completed - result.frame.captured), abs=0.01)
        assert all(stages[name] > 0 for name in ("preprocess", "head", "encode", "network", "decode", "tail", "post"))


async def test_a_source_that_fails_is_raised_after_its_last_frame_was_answered(
    edge: Edge, pictures: list[np.ndarray], make_feed: Any
) -> None:
    feed = make_feed()
    async with ue(edge.url) as session:
        run = session.run(feed, every=True)
        feed.give(pictures[0])
        assert (await take(run))[0].status == "ok"
        feed.give(pictures[1], OSError("unplugged"))
        assert (await take(run))[0].status == "ok"
        with pytest.raises(SourceError, match="unplugged"):
            await take(run)
        # The session is none the worse for it.
        again = make_feed()
        again.give(pictures[0], None)
        async with asyncio.timeout(WAIT):
            assert [result.status async for result in session.run(again)] == ["ok"]


async def test_results_that_make_no_sense_cost_only_their_frames(
    stub_edge: Any, pictures: list[np.ndarray], make_feed: Any, until: Any
) -> None:
    nonsense: list[dict[str, Any]] = [
        {"capture_us": 1},
        {"slices": 4096},
        {"output": b""},
        {"output": b"\1" + bytes(23)},
        {"output": b"\2" + bytes(24)},
        {"output_kind": OUTPUT_NONE, "output": b""},
        {"output_kind": 99, "output": b"of a later version"},
        {"output": b"\1" + (60_000).to_bytes(2, "big") + bytes(22)},
    ]
    feed = make_feed()
    async with ue(stub_edge.url) as session:
        run = session.run(feed, every=True)
        first: Unit | None = None
        for fields in nonsense:
            feed.give(pictures[0])
            async with asyncio.timeout(WAIT):
                unit = await stub_edge.frames.get()
            first = first or unit
            stub_edge.answer(unit, **fields)
            (result,) = await take(run)
            assert (result.status, result.dropped_at, result.answered) == ("error", "result", False)
            stub_edge.answer(unit)  # again: it has ended
        feed.give(pictures[0])
        async with asyncio.timeout(WAIT):
            stub_edge.answer(await stub_edge.frames.get())
        assert (await take(run))[0].status == "ok"
        assert run.summary.outcomes == {"error": len(nonsense), "ok": 1}
        assert session.counters["results_repeated"] == len(nonsense)
        assert first is not None
        stub_edge.answer(first)
        await until(lambda: session.counters["results_too_late"] == 1)


@pytest.mark.parametrize(
    ("status", "expected"), [(Status.SUPERSEDED, "superseded"), (Status.LATE, "late"), (Status.ERROR, "error")]
)
async def test_what_the_edge_could_not_do_is_told(
    stub_edge: Any, pictures: list[np.ndarray], make_feed: Any, status: Status, expected: str
) -> None:
    feed = make_feed()
    async with ue(stub_edge.url) as session:
        run = session.run(feed, every=True)
        feed.give(pictures[0])
        async with asyncio.timeout(WAIT):
            stub_edge.answer(await stub_edge.frames.get(), status=status, output_kind=OUTPUT_NONE, output=b"")
        (result,) = await take(run)
        assert (result.status, result.dropped_at, result.answered) == (expected, "edge", False)


async def test_a_frame_without_an_answer_is_lost_when_its_time_is_over(
    stub_edge: Any, pictures: list[np.ndarray], make_feed: Any
) -> None:
    feed = make_feed()
    async with ue(stub_edge.url, budget=0.2) as session:
        run = session.run(feed, every=True)
        feed.give(pictures[0], None)
        (result,) = await take(run)
        assert (result.status, result.dropped_at) == ("lost", "network")
        assert result.completed - result.frame.captured >= 0.2
        with pytest.raises(StopAsyncIteration):
            await take(run)
        assert stub_edge.sets[0].budget_ms == 200


async def test_garbage_from_the_edge_is_dropped_and_the_session_goes_on(
    stub_edge: Any, pictures: list[np.ndarray], make_feed: Any
) -> None:
    feed = make_feed()
    async with ue(stub_edge.url) as session:
        run = session.run(feed)
        for channel in stub_edge.peer._channels:
            for message in (b"", "", os.urandom(300), "text" * 50):
                channel.send(message)
        stub_edge.say(PeerFailure("trouble", "somewhere"))
        stub_edge.say(ParameterSetReject(1, "too late for that"))
        stub_edge.say(stub_edge.sets[0])  # a set of its own: not ours to take
        feed.give(pictures[0])
        async with asyncio.timeout(WAIT):
            stub_edge.answer(await stub_edge.frames.get())
        assert (await take(run))[0].status == "ok"
        assert session.counters["ignored_control_messages"] == 1
        assert session._connection is not None
        dropped = session._connection._peer.counters
        assert dropped.malformed >= 4
        assert dropped.wrong_type >= 4
        assert dropped.failed_callbacks == 0


# Runs.


async def test_one_run_at_a_time_and_another_one_after_it(
    edge: Edge, pictures: list[np.ndarray], make_feed: Any
) -> None:
    async with ue(edge.url) as session:
        first = session.run(make_feed())
        with pytest.raises(BadArgument, match="one run at a time"):
            session.run(make_feed())
        await first.aclose()  # before it has begun
        with pytest.raises(BadArgument, match="no sink"):
            session.run(make_feed(), sinks=["film.xyz"])
        feed = make_feed()
        feed.give(pictures[0], None)
        async with asyncio.timeout(WAIT):
            assert [result.frame.index async for result in session.run(feed)] == [0]


async def test_breaking_out_of_the_iteration_leaves_nothing(
    edge: Edge, make_feed: Any, tmp_path: Path, resources: Callable[[], Any], back_to: Any, until: Until
) -> None:
    async with ue(edge.url) as session:  # what is loaded once stays
        async for _ in session.run("clip"):
            break
    await until(lambda: not edge._sessions and not edge._server._sessions)
    before = resources()
    async with ue(edge.url) as session:
        async for _ in session.run("clip", sinks=[tmp_path / "out.jsonl", tmp_path / "out.mp4"]):
            break
    await until(lambda: not edge._sessions and not edge._server._sessions)
    await back_to(before)
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").endswith("\n")


async def test_a_session_that_is_over_takes_no_run(edge: Edge, make_feed: Any) -> None:
    session = ue(edge.url)
    with pytest.raises(BadArgument, match="not connected"):
        session.describe()
    async with session:
        assert session.describe() == {
            "mode": "split",
            "reason": "connected",
            "model": MODEL,
            "partition": "bottleneck_7",
            "profile": Zoo().get().default_profile,
            "variant": "fp32",
            "provider": session.provider,
        }
    await session.close()
    with pytest.raises(ConnectionLost, match="was closed"):
        session.run(make_feed())


async def test_a_session_that_was_never_entered_can_be_closed(edge: Edge) -> None:
    await ue(edge.url).close()


# How sessions end.


async def test_a_cancelled_client_leaves_nothing_and_frees_its_slot(
    edge: Edge, resources: Callable[[], Any], back_to: Any, tmp_path: Path, until: Until
) -> None:
    async def client(first: asyncio.Event) -> None:
        async with ue(edge.url) as session:
            async for _ in session.run("clip", repeat=True, sinks=[tmp_path / "out.jsonl"]):
                first.set()

    async def cancelled_in_the_middle() -> None:
        first = asyncio.Event()
        task = asyncio.create_task(client(first))
        async with asyncio.timeout(WAIT):
            await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: edge.sessions == 0 and not edge._sessions and not edge._server._sessions)

    await cancelled_in_the_middle()
    before = resources()
    await cancelled_in_the_middle()
    await back_to(before)


async def test_a_client_can_be_cancelled_at_any_moment_of_connecting(
    edge: Edge, resources: Callable[[], Any], back_to: Any, until: Until
) -> None:
    async def client() -> None:
        async with ue(edge.url):
            pass

    await client()
    await until(lambda: not edge._sessions and not edge._server._sessions)
    before = resources()
    for turns in (0, 1, 3, 10, 20, 40, 60, 80, 120, 200, 300):
        task = asyncio.create_task(client())
        for _ in range(turns):
            await asyncio.sleep(0.0005 if turns > 20 else 0)  # any moment will do
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: edge.sessions == 0 and not edge._sessions and not edge._server._sessions)
        await back_to(before)


async def test_an_impatient_caller_does_not_keep_the_session_from_closing(
    edge: Edge, resources: Callable[[], Any], back_to: Any, until: Until
) -> None:
    async with ue(edge.url):
        pass
    await until(lambda: not edge._sessions and not edge._server._sessions)
    before = resources()
    session = ue(edge.url)
    await session.__aenter__()
    closing = asyncio.create_task(session.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await session.close()
    await until(lambda: edge.sessions == 0 and not edge._sessions and not edge._server._sessions)
    await back_to(before)


async def test_the_end_of_the_edge_is_one_clear_error(edge: Edge, make_feed: Any, pictures: list[np.ndarray]) -> None:
    feed = make_feed()
    async with ue(edge.url) as session:
        run = session.run(feed)
        feed.give(pictures[0])
        await take(run)
        await edge.close()
        with pytest.raises(ConnectionLost, match="said goodbye: the edge closes"):
            await take(run)
        with pytest.raises(ConnectionLost):
            session.run(feed)


async def test_what_is_in_flight_when_the_session_ends_is_lost_and_told(
    stub_edge: Any, make_feed: Any, pictures: list[np.ndarray]
) -> None:
    feed = make_feed()
    async with ue(stub_edge.url) as session:
        run = session.run(feed, every=True)
        feed.give(pictures[0])
        async with asyncio.timeout(WAIT):
            await stub_edge.frames.get()
        stub_edge.say(Bye("enough"))
        (result,) = await take(run)
        assert (result.status, result.dropped_at) == ("lost", "network")
        with pytest.raises(ConnectionLost, match="enough"):
            await take(run)


async def test_the_edge_can_close_the_session_by_signalling(stub_edge: Any, make_feed: Any) -> None:
    async with ue(stub_edge.url) as session:
        run = session.run(make_feed())
        await stub_edge.request.session.close()
        with pytest.raises(ConnectionLost, match="the edge closed the session"):
            await take(run)


@contextlib.asynccontextmanager
async def relay(url: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A TCP relay before an edge: its URL, and a function that tears all its connections."""
    port = int(url.rpartition(":")[2])
    writers: set[asyncio.StreamWriter] = set()
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        writers.update((writer, there_writer))
        for ends in ((reader, there_writer), (there_reader, writer)):
            tasks.add(asyncio.create_task(copy(*ends)))

    def tear() -> None:
        for writer in writers:
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", tear
        tear()
        await asyncio.gather(*tasks)


async def test_the_loss_of_the_signalling_socket_alone_ends_nothing(
    edge: Edge, make_feed: Any, pictures: list[np.ndarray], until: Until
) -> None:
    feed = make_feed()
    async with relay(edge.url) as (url, tear), ue(url) as session:
        run = session.run(feed)
        feed.give(pictures[0])
        await take(run)
        tear()
        await until(lambda: not edge._server._sessions)
        feed.give(pictures[1])
        assert (await take(run))[0].status == "ok"
        assert edge.sessions == 1
    await until(lambda: edge.sessions == 0)  # the goodbye goes over the control channel


# How sessions do not even begin.


async def test_nobody_there(unused_tcp_port: int) -> None:
    with pytest.raises(Unreachable, match="nothing listens there; is the edge running"):
        async with ue(f"ws://127.0.0.1:{unused_tcp_port}"):
            pass


@pytest.mark.parametrize("silent", ["answer", "media", "acknowledgement"])
async def test_an_edge_that_stops_half_way_is_named(
    stub_edge: Any, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = type(stub_edge).connect

    async def no_answer(*_: object) -> str:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets this event")

    async def no_media(self: Any, request: ConnectRequest) -> str:
        answer: str = await whole(self, request)
        await self.peer.close()
        return answer

    if silent == "answer":
        monkeypatch.setattr(type(stub_edge), "connect", no_answer)
    elif silent == "media":
        monkeypatch.setattr(type(stub_edge), "connect", no_media)
    stub_edge.reply = lambda announced: None
    expected = {
        "answer": "the edge did not answer the offer",
        "media": "the edge answered, but the media connection did not come up; is UDP blocked",
        "acknowledgement": "the edge did not acknowledge the parameter set",
    }
    with pytest.raises(NegotiationTimeout, match=f"no session within 1 s: {expected[silent]}"):
        async with ue(stub_edge.url, timeout=1.0):
            pass


async def test_an_edge_that_leaves_while_the_ue_connects_is_not_waited_for(stub_edge: Any) -> None:
    async def leave() -> None:
        async with asyncio.timeout(WAIT):
            await stub_edge.control.get()
        await stub_edge.request.session.close()

    stub_edge.reply = lambda announced: None
    leaving = asyncio.create_task(leave())
    started = time.monotonic()
    with pytest.raises(ConnectionLost, match="the edge closed the session"):
        async with ue(stub_edge.url):
            pass
    assert time.monotonic() - started < WAIT / 2
    await leaving


async def test_a_parameter_set_that_is_refused_is_the_edges_fault(stub_edge: Any) -> None:
    stub_edge.reply = lambda announced: ParameterSetReject(announced.id, "out of spite")
    with pytest.raises(ProtocolError, match="refused the parameter set"):
        async with ue(stub_edge.url):
            pass


async def test_a_model_that_cannot_be_loaded_is_no_noise_when_there_is_no_edge_either(
    unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Unreachable):
        async with ue(f"ws://127.0.0.1:{unused_tcp_port}", provider="no such"):
            pass
    assert "never retrieved" not in caplog.text


# Who decides.


async def test_the_ue_decides_by_offering_one(edge: Edge, stub_edge: Any) -> None:
    chosen = {"model": MODEL, "partition": "bottleneck_12", "profile": "q8-zstd"}
    async with ue(edge.url, **chosen) as session:
        assert {name: session.describe()[name] for name in chosen} == chosen
    async with ue(stub_edge.url, **chosen):
        assert len(offers_of_request(stub_edge)) == 1


async def test_the_network_decides_among_several(stub_edge: Any, make_feed: Any, pictures: list[np.ndarray]) -> None:
    stub_edge.choose = lambda offers: offers[-1:]
    feed = make_feed()
    async with ue(stub_edge.url) as session:
        offered = offers_of_request(stub_edge)
        assert len(offered) > 1
        assert offered[0].partition != offered[-1].partition
        assert session.point.matches(offered[-1])
        (announced,) = stub_edge.sets
        assert (announced.partition, announced.profile) == (offered[-1].partition, offered[-1].profile)
        # What is sent, too, is of the split that was chosen.
        session.run(feed)
        feed.give(pictures[0])
        async with asyncio.timeout(WAIT):
            unit = await stub_edge.frames.get()
        elements = sum(np.prod(spec.shape) for spec in announced.tensors)
        first, count = int.from_bytes(unit.payload[1:5], "big"), int.from_bytes(unit.payload[5:7], "big")
        assert first + count == elements


async def test_an_edge_that_prefers_otherwise_gets_its_way(
    make_feed: Any, pictures: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    feed = make_feed()
    async with (
        Edge(EdgeSettings("127.0.0.1:0", accept=("q8", "raw-zstd"))) as edge,
        ue(edge.url) as session,
    ):
        assert session.point.profile == "q8"
        assert f"the edge chose q8, not {Zoo().get().default_profile}" in caplog.text
        run = session.run(feed)
        feed.give(pictures[0])
        assert (await take(run))[0].status == "ok"


async def test_an_edge_that_wants_fewer_frames_gets_fewer(
    stub_edge: Any, make_feed: Any, pictures: list[np.ndarray]
) -> None:
    stub_edge.choose = lambda offers: [replace(offers[0], fps=0.01)]
    feed = make_feed()
    async with ue(stub_edge.url) as session:
        run = session.run(feed, every=True)
        feed.give(pictures[0])
        async with asyncio.timeout(WAIT):
            stub_edge.answer(await stub_edge.frames.get())
        (first,) = await take(run)
        for _ in range(3):  # the next one that it wants is due in 100 s
            feed.give(pictures[0])
            (further,) = await take(run)
            assert (further.status, further.dropped_at) == ("skipped", "rate")
        assert first.status == "ok"
        assert stub_edge.frames.empty()


async def test_an_edge_takes_nothing_but_what_it_accepts() -> None:
    async with Edge(EdgeSettings("127.0.0.1:0", accept=("q8",))) as edge:
        with pytest.raises(NoCommonOperatingPoint) as refused:
            async with ue(edge.url, profile="q4"):
                pass
    assert all(";profile=q8;" in line for line in refused.value.problem["acceptable"])


@pytest.mark.parametrize("profile", ["q4-range", "pca:bits=4", "clusters:size=8", "avc:qp=24,refresh=30"])
async def test_a_profile_that_the_edge_is_told_to_accept(
    make_feed: Any, pictures: list[np.ndarray], profile: str
) -> None:
    feed = make_feed()
    async with Edge(EdgeSettings("127.0.0.1:0", accept=(profile,))) as edge, ue(edge.url, profile=profile) as session:
        run = session.run(feed)
        for picture in pictures[:2]:
            feed.give(picture)
            assert (await take(run))[0].status == "ok"
        assert session.point.profile == profile


async def test_video_of_strangers_is_decoded_only_where_it_is_wanted(tmp_path: Path) -> None:
    card = Zoo().get()
    data = card.path.read_bytes() + b"\x32\x05other"  # a doc_string: the same model with another digest
    value = card.to_json() | {
        "name": "other",
        "digest": bytes_digest(data),
        "size": len(data),
        "profiles": ["raw", "avc"],
    }
    value |= {"default_profile": "raw", "partitions": [value["partitions"][0] | {"ladder": []}]}
    path = card.calibration_path(card.default_partition)
    assert path is not None
    tensors = Calibration.load(path).tensors
    partition = partition_id(value["digest"], [tensor.name for tensor in tensors])
    (tmp_path / path.name).write_bytes(calibration_bytes(value["digest"], partition, tensors, "as the other's"))
    (tmp_path / card.file).write_bytes(data)
    (tmp_path / "card.json").write_text(json.dumps(value), encoding="utf-8")
    assert {point.profile for point in points(Zoo((tmp_path,)), model="other")} == {"raw", "avc"}
    async with Edge(EdgeSettings("127.0.0.1:0", model=("other",), models=(tmp_path,))) as edge:
        with pytest.raises(NoCommonOperatingPoint) as refused:
            async with ue(edge.url, profile="avc", model="other", models=(tmp_path,)):
                pass
    assert [line.partition(";profile=")[2][:4] for line in refused.value.problem["acceptable"]] == ["raw;", "vide"]


def offers_of_request(stub_edge: Any) -> Any:
    return offers_of(intermediate_attributes(stub_edge.request.offer))


# Peers that know nothing of splits.


class PlainPeer:
    """Answers with what aiortc makes of the offer, and ignores all that is ours in it."""

    def __init__(self) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.connected = asyncio.Event()
        self.connection.on("connectionstatechange", self._changed)

    def _changed(self) -> None:
        if self.connection.connectionState == "connected":
            self.connected.set()

    async def connect(self, request: ConnectRequest) -> str:
        await self.connection.setRemoteDescription(RTCSessionDescription(request.offer, "offer"))
        gather_only_on(self.connection, "127.0.0.1")
        await self.connection.setLocalDescription(await self.connection.createAnswer())
        answer: str = self.connection.localDescription.sdp
        assert "ai-split" not in answer
        return answer


@pytest.fixture
async def plain_peer() -> AsyncIterator[tuple[PlainPeer, str]]:
    plain = PlainPeer()
    server = SignalingServer("127.0.0.1:0", plain)
    await server.start()
    yield plain, f"ws://127.0.0.1:{server.port}"
    await server.close()
    await plain.connection.close()


async def test_an_answer_without_a_split_is_one_clear_error(plain_peer: tuple[PlainPeer, str]) -> None:
    with pytest.raises(ProtocolError, match="the answer has no ai-split attribute"):
        async with ue(plain_peer[1]):
            pass


async def test_a_plain_peer_connects_all_the_same(plain_peer: tuple[PlainPeer, str]) -> None:
    plain, url = plain_peer
    async with SignalingClient(url) as client, Peer(bind="127.0.0.1") as peer:
        offers = [point.offer(30.0) for point in points(Zoo())]
        await peer.accept_answer(await client.connect(await peer.create_offer(attributes_of(offers))))
        async with asyncio.timeout(WAIT):
            await plain.connected.wait()
        assert plain.connection.connectionState == "connected"
