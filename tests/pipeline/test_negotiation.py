"""Both decision modes with a real edge: what it promises is kept until the UE connects, or does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from models import PartitionStore, Zoo
from models.information import EndpointCapabilities, ServiceRequirements
from pipeline import negotiation, reservations
from pipeline.appraisal import Appraisal
from pipeline.deciding import predicted
from pipeline.edge import Edge
from pipeline.manifest import make_manifest
from pipeline.negotiation import information, selected
from pipeline.offers import OperatingPoint, points
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession
from signaling import InformationRequest, Need, Selection, SignalingClient, new_resume_id
from signaling.decision import HANDOVER_MS, OVERHEAD, Link
from signaling.manifest import Load, VariantEntry
from splitrtc_errors import BadArgument, EdgeFull, NoCommonOperatingPoint, ProtocolError
from tests.signaling.manifests import DIGEST, EARLY, LATE, MANIFEST

WAIT = 20.0
Until = Any

pytestmark = pytest.mark.usefixtures("patient_edges")

NEED = Need(
    ServiceRequirements("detection"),
    EndpointCapabilities(("ONNX",), ("q4-zstd", "raw"), flops=5e9, rate=20e6, rtt=20.0),
    modes=("split",),
    fps=5.0,
    models=(DIGEST,),
)


def point(name: str = "bottleneck_12", profile: str = "q8") -> OperatingPoint:
    (found,) = points(Zoo(), partition=name, profile=profile)
    return found


def selection(of: OperatingPoint) -> Selection:
    offer = of.offer(1.0)
    return Selection("split", offer.digest, offer.head, offer.partition, offer.profile, offer.calibration)


def ue(url: str, **settings: Any) -> UeSession:
    return UeSession(UeSettings(url, **{"budget": 10.0, "timeout": WAIT, **settings}))


@pytest.fixture
async def small() -> AsyncIterator[Edge]:
    """An edge with one place."""
    async with Edge(EdgeSettings("127.0.0.1:0", max_sessions=1)) as edge:
        yield edge


@pytest.mark.parametrize("how", ["network", "ue"])
async def test_who_decides_takes_what_is_preferred_and_the_edge_keeps_it(edge: Edge, how: str) -> None:
    async with ue(edge.url, decide=how, prefer="bottleneck_12") as session:
        assert session.point.cut.name == "bottleneck_12"
        assert edge.sessions == 1
    async with ue(edge.url, decide=how, profile="q8", partition="bottleneck_12") as session:
        assert (session.point.profile, session.point.cut.name) == ("q8", "bottleneck_12")


@pytest.mark.parametrize("how", ["network", "ue"])
async def test_where_nothing_can_be_chosen_the_reasons_are_told(edge: Edge, how: str) -> None:
    with pytest.raises(NoCommonOperatingPoint, match="ms of at most 2"):
        async with ue(edge.url, decide=how, budget=0.002):
            pass


async def test_a_place_is_kept_for_who_selected_and_counted(small: Edge) -> None:
    async with SignalingClient(small.url) as first, SignalingClient(small.url) as second:
        told = await first.select(selection(point()))
        assert told.reserved_ms == 1e3 * reservations.RESERVATION
        assert small.sessions == 1
        with pytest.raises(EdgeFull, match="all 1 sessions are taken"):
            await second.select(selection(point()))
        await first.select(selection(point("bottleneck_7")))  # in place of the other
        assert small.sessions == 1


async def test_a_tail_is_warm_when_the_answer_comes_and_freed_when_the_ue_goes(small: Edge, until: Until) -> None:
    assert len(small._pool) == 1
    async with SignalingClient(small.url) as client:
        await client.select(selection(point()))
        assert len(small._pool) == 2
    await until(lambda: small.sessions == 0)
    assert len(small._pool) == 1


async def test_what_is_not_fetched_in_time_is_for_others(
    small: Edge, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservations, "RESERVATION", 0.05)
    async with SignalingClient(small.url) as client:
        await client.select(selection(point()))
        await until(lambda: small.sessions == 0)
        async with ue(small.url):
            assert small.sessions == 1


async def test_what_is_not_served_cannot_be_selected(edge: Edge) -> None:
    async with SignalingClient(edge.url) as client:
        with pytest.raises(NoCommonOperatingPoint):
            await client.select(replace(selection(point()), profile="q3-zstd"))
        with pytest.raises(NoCommonOperatingPoint):
            await client.select(replace(selection(point()), variant="int8"))
        assert edge.sessions == 0
        assert (await client.select(Selection("local", point().card.digest, "fp32"))).reserved_ms is None
        assert edge.sessions == 0


async def test_the_place_of_a_ues_last_session_is_free_for_its_next(small: Edge) -> None:
    need = replace(NEED, models=(point().card.digest,))
    resume = new_resume_id()
    session = ue(small.url, decide="network")
    session._resume_id = resume
    async with session:
        async with SignalingClient(small.url) as client:
            with pytest.raises(EdgeFull):
                await client.request_inference(need)
            assert (await client.request_inference(need, resume=resume)).selection.mode == "split"
            assert small.sessions == 1
            assert small.outcomes["sessions_replaced"] == 1


async def test_an_edge_that_drains_promises_nothing(small: Edge) -> None:
    async with SignalingClient(small.url) as client:
        await client.meet()
        small._draining = True
        with pytest.raises(EdgeFull, match="no new sessions"):
            await client.select(selection(point()))
        with pytest.raises(EdgeFull):
            await client.request_inference(replace(NEED, models=(point().card.digest,)))
        assert small.sessions == 0
        small._draining = False


async def test_closing_gives_up_what_is_kept() -> None:
    async with Edge(EdgeSettings("127.0.0.1:0")) as edge:
        client = SignalingClient(edge.url)
        async with client:
            await client.select(selection(point()))
            await edge.close()
    assert (edge.sessions, len(edge._reservations), len(edge._pool)) == (0, 0, 0)


async def test_a_tail_that_cannot_be_had_leaves_no_place_taken(small: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise ProtocolError("cannot be loaded")

    monkeypatch.setattr(small._pool, "acquire", broken)
    async with SignalingClient(small.url) as client:
        with pytest.raises(Exception, match="refused"):
            await client.select(selection(point()))
    assert small.sessions == 0


async def test_a_selection_that_the_device_does_not_have_is_not_taken(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = replace(selection(point()), calibration="sha-256:" + 64 * "0")
    monkeypatch.setattr("pipeline.edge.selected", lambda *_: elsewhere)

    async def nothing(*_: Any) -> None:
        return None

    monkeypatch.setattr(edge, "_reserve", nothing)
    with pytest.raises(ProtocolError, match="does not have"):
        async with ue(edge.url, decide="network"):
            pass


async def test_the_manifest_says_what_things_cost(edge: Edge) -> None:
    manifest = await edge._describe()
    assert manifest.capabilities.flops is not None
    assert manifest.capabilities.runtime is not None
    (model,) = (entry for entry in manifest.models if entry.information.name == "ssdlite_mbv2_coco_300")
    assert (model.information.accuracy, model.information.macs) == (30.5, 749_503_856)
    assert model.whole_ms is not None
    first, second, whole = model.partitions
    assert (first.variants[0].head_macs, second.variants[0].head_macs) == (218_365_296, 340_562_352)
    for cut in (first, second):
        assert cut.tail_ms is not None
        assert cut.variants[0].head_ms is not None
    card = Zoo().get("ssdlite_mbv2_coco_300")
    ladder = {entry.profile: entry for entry in first.profiles}[card.default_profile]
    (rung,) = (rung for rung in card.default_partition.ladder if rung.profile == card.default_profile)
    (moving,) = (measured for measured in rung.measured if measured.content == "moving")
    assert (ladder.bytes, ladder.f1) == (moving.bytes, moving.f1)
    assert ladder.accuracy == pytest.approx(30.5, abs=0.1)
    here = {entry.profile: entry for entry in second.profiles}
    for coded in (ladder, here["raw"], here["q4-zstd"]):
        assert coded.encode_ms is not None
        assert coded.decode_ms is not None
    assert 0 < (here["raw"].bytes or 0) - 4 * 96 * 19 * 19 < 1_500
    assert 0.5 < (here["q4-zstd"].bytes or 0) / (96 * 19 * 19 / 2) < 1
    assert (whole.carries_input, whole.variants, [entry.profile for entry in whole.profiles]) == (
        True,
        (VariantEntry("fp32"),),
        ["video"],
    )
    assert whole.profiles[0].bytes == 6_250
    assert whole.tail_ms is not None
    assert [split.name for split in model.information.split_points] == ["bottleneck_7", "bottleneck_12", "input"]


async def test_before_it_has_measured_an_edge_says_what_follows_from_the_bits(edge: Edge) -> None:
    await edge._describe()
    told = make_manifest(
        edge._catalogue.points, edge._shelf, Appraisal(PartitionStore(), "cpu", 1), state="ready", load=Load(0, 1)
    )
    _, second, _ = told.models[0].partitions
    sizes = {entry.profile: entry.bytes for entry in second.profiles}
    assert sizes["raw"] == 4 * 96 * 19 * 19
    assert sizes["q4-zstd"] == 0.9 * 96 * 19 * 19 / 2


async def test_an_edge_says_how_long_frames_waited_of_late(edge: Edge) -> None:
    before = (await edge._describe()).load.queue_ms
    edge._pool.waited(0.25)
    edge._pool.waited(0.25)
    assert before is None
    assert (await edge._describe()).load.queue_ms == pytest.approx(250)


async def test_one_operating_point_is_predicted(edge: Edge) -> None:
    manifest = await edge._describe()
    device = replace(manifest.capabilities, flops=(manifest.capabilities.flops or 0) / 2)
    latency = predicted(manifest, point(), device, Link(10e6, 30.0))
    (cut,) = (cut for cut in manifest.models[0].partitions if cut.name == "bottleneck_12")
    assert latency is not None
    assert latency.head == pytest.approx(2 * (cut.variants[0].head_ms or 0))
    assert latency.tail == cut.tail_ms
    (size,) = (entry.bytes for entry in cut.profiles if entry.profile == "q8")
    assert latency.link == pytest.approx(30 + HANDOVER_MS + 8 * OVERHEAD * (size or 0) / 10e3)
    assert predicted(manifest, point("bottleneck_7", "klt:step=1.77"), device, Link(10e6, 30.0)) is None


# The answers, as pure functions of a manifest.


def test_models_and_cuts_that_are_not_wanted_are_not_told() -> None:
    told = information(MANIFEST, InformationRequest(1, NEED))
    assert [cut.name for cut in told.models[0].partitions] == ["early", "late", "input"]
    told = information(MANIFEST, InformationRequest(1, replace(NEED, model="tiny", partition=LATE.identifier)))
    assert [cut.name for cut in told.models[0].partitions] == ["late"]
    told = information(MANIFEST, InformationRequest(1, replace(NEED, model="another")))
    assert (told.models, told.preferred) == ((), None)


def test_the_edge_says_which_one_it_would_take() -> None:
    told = information(MANIFEST, InformationRequest(1, NEED))
    assert told.preferred == selected(MANIFEST, NEED, 5.0)
    assert told.preferred.partition == EARLY.identifier


def test_what_does_not_go_into_a_message_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    (entry,) = MANIFEST.models
    second = replace(entry, information=replace(entry.information, identifier="sha-256:" + 64 * "0"))
    both = replace(MANIFEST, models=(entry, second))
    assert len(information(both, InformationRequest(1, NEED)).models) == 2
    monkeypatch.setattr(negotiation, "MOST_BYTES", 4_000)
    assert information(both, InformationRequest(1, NEED)).models == (entry,)


def test_a_full_or_draining_edge_names_a_time() -> None:
    for state in ("full", "draining"):
        with pytest.raises(EdgeFull) as caught:
            selected(replace(MANIFEST, state=state), NEED, 5.0)
        assert caught.value.retry_after == 5.0
    with pytest.raises(NoCommonOperatingPoint, match="the model that is asked for"):
        selected(MANIFEST, replace(NEED, model="another"), 5.0)


def test_who_decides_is_one_of_three() -> None:
    for wrong in ("decide", "optimise", "privacy"):
        with pytest.raises(BadArgument, match=f"{wrong}: expected"):
            ue("127.0.0.1:1", **{wrong: "me"})
