from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.information import EndpointCapabilities
from signaling.candidates import Candidate, candidates_of
from signaling.decision import (
    DEVICE_MS,
    HANDOVER_MS,
    KEEPS_UP,
    MODES,
    OPTIMISE,
    OVERHEAD,
    PRIVACY,
    UNIT_BYTES,
    UNIT_MS,
    Decision,
    Device,
    Edge,
    Explained,
    Latency,
    Link,
    Wish,
    decide,
    predict,
)
from signaling.manifest import Load
from tests.signaling.manifests import DIGEST, MANIFEST

CANDIDATES = candidates_of(MANIFEST.models)
EDGE = Edge(MANIFEST.capabilities, MANIFEST.load)
LINK = Link(20e6, 20.0)


def device(speed: float = 0.25, **others: Any) -> Device:
    """A device whose one thread has so much of the edge's speed."""
    flops = 20e9 * speed
    return Device(
        EndpointCapabilities(("ONNX",), ("raw", "q4-zstd"), **{"flops": flops, **others}), frozenset({DIGEST})
    )


def chosen(wish: Wish, link: Link | None = LINK, of: Device | None = None, edge: Edge = EDGE) -> tuple[str, ...]:
    decision = decide(CANDIDATES, of or device(), edge, link, wish)
    return () if decision.chosen is None else (decision.chosen.candidate.mode, decision.chosen.candidate.name or "")


def why_not(key: Callable[[Candidate], bool], wish: Wish, **others: Any) -> tuple[str, ...]:
    decision = decide(CANDIDATES, others.pop("of", device()), others.pop("edge", EDGE), LINK, wish)
    return next(one.why_not for one in decision.explained if key(one.candidate))


def test_every_point_of_a_manifest_is_a_candidate() -> None:
    assert [(one.mode, one.name, one.variant, one.profile) for one in CANDIDATES] == [
        ("local", None, "fp32", None),
        ("split", "early", "fp32", "raw"),
        ("split", "early", "fp32", "q4-zstd"),
        ("split", "late", "fp32", "q4-zstd"),
        ("split", "late", "int8", "q4-zstd"),
        ("split", "input", "fp32", "raw"),
    ]
    assert len({one.key for one in CANDIDATES}) == len(CANDIDATES)


def test_a_latency_is_predicted_part_by_part() -> None:
    latency = predict(CANDIDATES[2], device(0.25), EDGE, LINK)
    assert latency is not None
    assert latency.to_json() == {
        "device": DEVICE_MS,
        "head": 40.0,  # 10 ms on a thread that is four times faster
        "encode": 2.0,
        "link": round(20 + 14_000 * 8 * OVERHEAD / 20e6 * 1e3 + HANDOVER_MS, 3),
        "queue": 0.5,
        "decode": 0.4,
        "tail": 8.0,
        "total": round(latency.total, 3),
    }
    assert latency.total == pytest.approx(DEVICE_MS + 40 + 2 + 20 + 6.104 + HANDOVER_MS + 0.5 + 0.4 + 8)


def test_more_threads_speed_up_the_head_and_not_the_codec() -> None:
    one, two = (predict(CANDIDATES[2], device(speedup=speedup), EDGE, LINK) for speedup in (None, 1.6))
    assert one is not None
    assert two is not None
    assert two.head == pytest.approx(one.head / 1.6)
    assert two.encode == one.encode
    (slow,) = decide([replace(CANDIDATES[2], head_ms=None)], device(speedup=2.0), EDGE, LINK, Wish()).explained
    assert slow.latency is not None
    assert slow.latency.head == pytest.approx(2e3 * 160e6 / 10e9)


def test_what_cannot_keep_up_gets_a_frame_that_has_waited_for_half_of_the_time_between_two() -> None:
    def at(fps: float | None, **changes: Any) -> Latency:
        found = predict(replace(CANDIDATES[2], **changes), device(1.0), EDGE, LINK, fps)
        assert found is not None
        return found

    calm, device_busy = at(5), at(100, encode_ms=10.0)
    assert calm == at(None)
    assert device_busy.device == pytest.approx(calm.device + 5)
    # A frame leaves the device each 20.7 ms, and no stage behind it is slower.
    assert (device_busy.link, device_busy.queue) == (calm.link, calm.queue)
    link_busy = at(50, bytes=100_000.0)
    assert link_busy.link == pytest.approx(at(None, bytes=100_000.0).link + 10)
    assert link_busy.queue == calm.queue
    assert at(50, tail_ms=30.0).queue == pytest.approx(calm.queue + 10)
    whole = predict(CANDIDATES[0], device(1.0), EDGE, LINK, 50)
    assert whole is not None
    assert whole.device == pytest.approx(DEVICE_MS + 10)


def test_on_a_fast_link_the_transports_own_work_counts() -> None:
    latency = predict(CANDIDATES[1], device(), EDGE, Link(1e9, 1.0))
    assert latency is not None
    assert latency.link == pytest.approx(1 + HANDOVER_MS + UNIT_MS * 184_832 / UNIT_BYTES)


def test_without_a_measured_head_its_operations_tell() -> None:
    latency = predict(replace(CANDIDATES[3], head_ms=None), device(0.25), EDGE, LINK)
    assert latency is not None
    assert latency.head == pytest.approx(2 * 480e6 / 5e9 * 1e3)


@pytest.mark.parametrize(
    ("candidate", "of", "link", "what"),
    [
        (CANDIDATES[2], Device(EndpointCapabilities((), ())), LINK, "the speed of the device, or the cost of"),
        (replace(CANDIDATES[2], head_ms=None, head_macs=None), device(), LINK, "the speed of the device, or the cost"),
        (replace(CANDIDATES[0], head_ms=None, head_macs=None), device(), LINK, "the speed of the device, or the cost"),
        (replace(CANDIDATES[2], bytes=None), device(), LINK, "its bytes are not known"),
        (replace(CANDIDATES[2], tail_ms=None), device(), LINK, "its tail's time is not known"),
        (CANDIDATES[2], device(), None, "the link's rate is not known"),
        (CANDIDATES[2], device(), Link(0.0, 20.0), "the link's rate is not known"),
    ],
)
def test_what_is_not_known_is_not_predicted(candidate: Candidate, of: Device, link: Link | None, what: str) -> None:
    decision = decide([candidate], of, EDGE, link, Wish())
    assert decision.chosen is None
    assert f"not predictable: {what}" in decision.reasons


def test_without_a_link_the_device_does_it_alone() -> None:
    assert chosen(Wish(), link=None) == ("local", "")


def test_a_fast_device_on_a_slow_link_does_it_alone_and_a_slow_one_on_a_fast_link_does_not() -> None:
    assert chosen(Wish(fps=5), Link(1e6, 100.0), device(1.0)) == ("local", "")
    assert chosen(Wish(fps=5), Link(100e6, 5.0), device(0.1)) == ("split", "early")


def test_what_is_to_be_optimised_decides() -> None:
    wish = Wish(modes=("split",), fps=5)
    assert chosen(wish) == ("split", "early")
    assert chosen(replace(wish, optimise="bandwidth")) == ("split", "late")
    least = replace(wish, optimise="energy", fps=1)
    assert chosen(least, of=device(0.05)) == ("split", "input")
    assert chosen(replace(least, privacy="no-pictures"), of=device(0.05)) == ("split", "early")


def test_a_preferred_cut_is_taken_where_it_may_be() -> None:
    wish = Wish(fps=5, prefer="late")
    assert chosen(wish) == ("split", "late")
    assert chosen(replace(wish, prefer=CANDIDATES[3].partition)) == ("split", "late")
    assert chosen(replace(wish, max_latency=110.0)) == ("split", "early")  # the preferred one takes longer


def test_what_keeps_up_goes_before_what_does_not() -> None:
    assert chosen(Wish(fps=10), of=device(0.25)) == ("split", "early")
    assert chosen(Wish(fps=10), Link(1e6, 20.0), of=device(0.25)) == ("split", "late")


def test_each_objection_is_said() -> None:
    local, early, late, pictures = (
        lambda one: one.mode == "local",
        lambda one: one.name == "early",
        lambda one: one.name == "late",
        lambda one: one.carries_input,
    )
    assert why_not(local, Wish(modes=("split",))) == ("mode local is not wanted",)
    assert why_not(pictures, Wish(privacy="no-pictures")) == ("it would send the picture",)
    stranger = replace(device(), models=frozenset())
    assert why_not(late, Wish(), of=stranger) == ("its model is not on the device, and does not leave the edge",)
    assert why_not(early, Wish(), of=stranger) == ()
    assert why_not(local, Wish(fps=5), of=stranger) == ("its model is not on the device",)
    assert why_not(early, Wish(), edge=replace(EDGE, state="draining")) == ("the edge is draining",)
    assert why_not(early, Wish(), edge=replace(EDGE, state="full")) == ("the edge is full",)
    assert why_not(early, Wish(), edge=replace(EDGE, load=Load(3, 3))) == ("the edge is full",)
    assert why_not(early, Wish(), edge=replace(EDGE, state="warming")) == ()
    codecs = replace(device().capabilities, profiles=("q4-zstd",))
    raw = CANDIDATES[1].key
    assert why_not(lambda one: one.key == raw, Wish(), of=Device(codecs)) == (
        "the device does not have the profile raw",
    )
    assert why_not(early, Wish(), of=device(memory=40_000_000)) == ("needs 50 MB of the device's 40",)
    assert why_not(local, Wish(max_latency=100.0)) == ("takes 177 ms of at most 100",)
    q4 = CANDIDATES[2].key
    assert why_not(lambda one: one.key == q4, Wish(min_accuracy=29.0)) == (
        "has an accuracy of 28.5, at least 29.0 is asked for",
    )
    assert why_not(late, Wish(min_accuracy=29.0)) == ("its accuracy is not known",)


def test_what_costs_much_of_the_models_accuracy_is_not_taken_unless_it_is_asked_for() -> None:
    coarse = replace(CANDIDATES[2], accuracy=25.0)
    (one,) = decide([coarse], device(), EDGE, LINK, Wish()).explained
    assert one.why_not == ("costs 5.0 of its model's accuracy of 30.0",)
    assert decide([coarse], device(), EDGE, LINK, Wish(min_accuracy=20.0)).chosen is not None
    unlike = replace(coarse, accuracy=None, f1=0.85)
    (one,) = decide([unlike], device(), EDGE, LINK, Wish()).explained
    assert one.why_not == ("agrees with the whole model only to 0.850",)


def test_remote_has_no_head() -> None:
    remote = replace(CANDIDATES[5], mode="remote", profile="video", bytes=5_000.0)
    decision = decide([remote], Device(EndpointCapabilities((), ())), EDGE, LINK, Wish())
    assert decision.chosen is not None
    assert decision.chosen.latency is not None
    assert decision.chosen.latency.head == 0
    assert decide([remote], device(), EDGE, LINK, Wish(privacy="no-pictures")).chosen is None


def test_nothing_to_choose_from_is_no_decision() -> None:
    assert decide([], device(), EDGE, LINK, Wish()) == Decision(None, ())
    assert Decision(None, ()).reasons == ""
    assert Decision(None, ()).to_json() == {"chosen": None, "candidates": []}


def test_a_decision_explains_itself_in_plain_values() -> None:
    value = decide(CANDIDATES, device(), EDGE, LINK, Wish(privacy="no-pictures", fps=5)).to_json()
    assert value["chosen"]["name"] == "early"
    assert value["chosen"] == value["candidates"][0]
    assert ["it would send the picture"] in [one["why_not"] for one in value["candidates"]]
    assert value["candidates"][0]["latency_ms"]["head"] == 40.0
    assert max(one["energy_share"] for one in value["candidates"]) == 1.0
    (unknown,) = decide([replace(CANDIDATES[2], bytes=None)], device(), EDGE, LINK, Wish()).to_json()["candidates"]
    assert unknown["latency_ms"] is None


few = st.none() | st.sampled_from([0.0, 1.0, 5.0, 20.0])
any_candidate = st.builds(
    Candidate,
    mode=st.sampled_from(MODES),
    model=st.sampled_from([DIGEST, "sha-256:" + 64 * "0"]),
    model_name=st.just("m"),
    partition=st.sampled_from(["p", "q"]),
    name=st.sampled_from(["early", "late"]),
    variant=st.sampled_from(["fp32", "int8"]),
    profile=st.sampled_from(["raw", "q4-zstd", "klt:step=1"]),
    head_macs=st.none() | st.sampled_from([0, 10**8, 10**9]),
    head_ms=few,
    encode_ms=few,
    bytes=st.none() | st.sampled_from([0.0, 1e3, 1e4, 1e5]),
    decode_ms=few,
    tail_ms=few,
    accuracy=st.none() | st.sampled_from([20.0, 29.0, 30.0]),
    model_accuracy=st.none() | st.just(30.0),
    f1=st.none() | st.sampled_from([0.8, 0.95]),
    memory=st.none() | st.sampled_from([10**6, 10**9]),
    carries_input=st.booleans(),
    obtainable=st.booleans(),
)
candidate_lists = st.lists(any_candidate, max_size=6, unique_by=lambda one: one.key)
any_device = st.builds(
    Device,
    st.builds(
        EndpointCapabilities,
        st.just(()),
        st.sampled_from([(), ("raw", "q4-zstd"), ("raw", "klt", "q4-zstd")]),
        flops=st.none() | st.sampled_from([0.0, 1e-300, 1e9, 2e10]),
        memory=st.none() | st.just(10**8),
    ),
    st.sampled_from([frozenset(), frozenset({DIGEST})]),
)
any_edge = st.builds(
    Edge,
    st.builds(EndpointCapabilities, st.just(()), st.just(()), flops=st.none() | st.sampled_from([0.0, 2e10, 1e18])),
    st.sampled_from([Load(0, 1), Load(1, 1), Load(0, 1, 7.0)]),
    st.sampled_from(["ready", "warming", "draining", "full"]),
)
any_link = st.none() | st.builds(Link, st.sampled_from([0.0, 1e5, 2e7]), st.sampled_from([0.0, 20.0, 1e18]))
any_wish = st.builds(
    Wish,
    st.sampled_from(OPTIMISE),
    st.sampled_from(PRIVACY),
    st.lists(st.sampled_from(MODES), unique=True).map(tuple),
    st.none() | st.sampled_from([10.0, 100.0]),
    st.none() | st.sampled_from([25.0, 30.0]),
    st.none() | st.sampled_from(["early", "q"]),
    st.sampled_from([0.0, 10.0, 30.0]),
)
arguments = (candidate_lists, any_device, any_edge, any_link, any_wish)


@given(*arguments, st.randoms())
def test_the_order_in_which_candidates_come_changes_nothing(
    found: list[Candidate], device: Device, edge: Edge, link: Link | None, wish: Wish, random: Any
) -> None:
    decision = decide(found, device, edge, link, wish)
    random.shuffle(found)
    assert decide(found, device, edge, link, wish) == decision
    assert {one.candidate.key for one in decision.explained} == {one.key for one in found}


@given(*arguments)
def test_nothing_forbidden_is_chosen(
    found: list[Candidate], device: Device, edge: Edge, link: Link | None, wish: Wish
) -> None:
    one = decide(found, device, edge, link, wish).chosen
    if one is None:
        return
    candidate = one.candidate
    assert candidate.mode in wish.modes
    assert wish.privacy == "any" or not (candidate.carries_input or candidate.mode == "remote")
    assert candidate.mode == "local" or (link is not None and edge.state not in ("draining", "full"))
    assert one.latency is not None
    assert wish.max_latency is None or one.latency.total <= wish.max_latency
    assert wish.min_accuracy is None or (candidate.accuracy or 0) >= wish.min_accuracy
    limit = device.capabilities.memory
    assert None in (limit, candidate.memory) or candidate.memory <= limit  # type: ignore[operator]
    assert candidate.obtainable or candidate.mode == "remote" or candidate.model in device.models


@given(*arguments)
def test_nothing_is_chosen_that_another_one_dominates(
    found: list[Candidate], device: Device, edge: Edge, link: Link | None, wish: Wish
) -> None:
    decision = decide(found, device, edge, link, wish)
    if decision.chosen is None:
        assert not any(one.allowed for one in decision.explained)
        return

    def costs(one: Explained) -> tuple[float, ...]:
        assert one.latency is not None
        accuracy = -1.0 if one.candidate.accuracy is None else one.candidate.accuracy
        size = one.candidate.bytes
        bytes_ = float("inf") if size is None else size
        return (one.fps < KEEPS_UP * wish.fps, one.latency.total, bytes_, one.energy, -accuracy)

    mine = costs(decision.chosen)
    names = (decision.chosen.candidate.partition, decision.chosen.candidate.name)
    for other in decision.explained:
        preferred = wish.prefer is None or wish.prefer not in names
        if other.allowed and (preferred or wish.prefer in (other.candidate.partition, other.candidate.name)):
            theirs = costs(other)
            assert theirs == mine or any(their > my for their, my in zip(theirs, mine, strict=True))
