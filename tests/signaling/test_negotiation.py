from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.aisplit import MAX_OFFERS, SplitOffer
from signaling.negotiation import Acceptable, check_answer, choose
from signaling.problems import NO_COMMON_OPERATING_POINT
from splitrtc_errors import NoCommonOperatingPoint, ProtocolError

MODEL = "sha-256:" + "a" * 64
CALIBRATION = "sha-256:" + "c" * 64
PARTITION = "b" * 32
EDGE = Acceptable("net", MODEL, PARTITION, ("fp32", "fp16"), {"q4-zstd": CALIBRATION, "q8": CALIBRATION, "raw": None})
Q4 = SplitOffer("net", MODEL, PARTITION, "fp32", "q4-zstd", CALIBRATION, "up", 30, True)
Q8 = replace(Q4, profile="q8")
RAW = replace(Q4, profile="raw", calibration=None)


def test_the_ue_decides_by_offering_one() -> None:
    assert choose([Q4], [EDGE]) == [Q4]


def test_the_network_decides_by_choosing_among_several() -> None:
    ranks = {"raw": 0, "q8": 1, "q4-zstd": 2}
    assert choose([Q4, Q8, RAW], [EDGE], lambda offer: ranks[offer.profile]) == [RAW, Q8, Q4]
    assert choose([Q8, RAW, Q4], [EDGE], lambda offer: 0) == [Q8, RAW, Q4]


def test_without_a_preference_the_order_is_the_ues() -> None:
    unknown = replace(Q4, partition="d" * 32)
    assert choose([unknown, RAW, Q4], [EDGE]) == [RAW, Q4]


def test_what_comes_back_is_agreed_on_beside_the_active_split_and_never_in_its_place() -> None:
    back = replace(RAW, direction="down")
    edges = [EDGE, replace(EDGE, profiles={"raw": None}, direction="down")]
    answer = choose([back, Q4, RAW], edges, lambda offer: 0 if offer == back else 1)
    assert answer == [Q4, RAW, back]
    assert check_answer([back, Q4, RAW], answer) == answer
    with pytest.raises(NoCommonOperatingPoint):
        choose([back], edges)
    with pytest.raises(ProtocolError, match="the answer begins with a split of direction down"):
        check_answer([back, Q4], [back, Q4])


def test_a_model_is_known_by_its_digest() -> None:
    renamed = replace(Q4, model="another-name")
    assert choose([renamed], [EDGE]) == [renamed]


@pytest.mark.parametrize(
    ("offer", "aspect"),
    [
        (replace(Q4, digest="sha-256:" + "0" * 64), "model"),
        (replace(Q4, partition="d" * 32), "partition"),
        (replace(Q4, direction="down"), "direction"),
        (replace(Q4, head="int8"), "head"),
        (replace(Q4, profile="q8-zstd"), "profile"),
        (replace(Q4, calibration="sha-256:" + "0" * 64), "calibration"),
        (replace(Q4, calibration=None), "calibration"),
        (replace(RAW, calibration=CALIBRATION), "calibration"),
    ],
)
def test_what_is_not_served_is_refused_with_what_is(offer: SplitOffer, aspect: str) -> None:
    with pytest.raises(NoCommonOperatingPoint, match=f"the {aspect} of the preferred offer") as raised:
        choose([offer], [EDGE])
    assert ("both sides need the same calibration file" in str(raised.value)) == (aspect == "calibration")
    problem = raised.value.problem
    assert problem["type"] == NO_COMMON_OPERATING_POINT
    acceptable = [SplitOffer.parse(line) for line in problem["acceptable"]]
    assert len(acceptable) == 3, "with the first head"
    assert all(alternative.fps == 30 for alternative in acceptable)
    assert choose(acceptable, [EDGE]) == acceptable


def test_an_edge_that_serves_nothing_says_so() -> None:
    with pytest.raises(NoCommonOperatingPoint, match="the model of") as raised:
        choose([Q4], [])
    assert "acceptable" not in raised.value.problem


def test_the_list_of_alternatives_is_bounded() -> None:
    many = [replace(EDGE, partition=f"{i:032x}") for i in range(40)]
    with pytest.raises(NoCommonOperatingPoint) as raised:
        choose([Q4], many)
    assert len(raised.value.problem["acceptable"]) == MAX_OFFERS


def test_an_offer_without_a_split_is_a_breach_of_the_protocol() -> None:
    with pytest.raises(ProtocolError, match="no ai-split"):
        choose([], [EDGE])


def test_an_answer_is_checked_against_the_offer() -> None:
    assert check_answer([Q4, Q8, RAW], [RAW, Q4]) == [RAW, Q4]


def test_the_edge_may_ask_for_less() -> None:
    answer = replace(Q4, fps=10, dynamic=False, model="renamed")
    assert check_answer([Q4], [answer]) == [replace(Q4, fps=10, dynamic=False)]


@pytest.mark.parametrize(
    ("answered", "reason"),
    [
        ([], "no ai-split"),
        ([Q8], "not offered"),
        ([Q4, Q4], "twice"),
        ([replace(Q4, fps=31)], "more frames"),
        ([replace(RAW, dynamic=True)], "more freedom"),
    ],
)
def test_an_answer_that_fits_no_offer_is_a_breach_of_the_protocol(answered: list[SplitOffer], reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        check_answer([Q4, replace(RAW, dynamic=False)], answered)


POINTS = st.builds(
    lambda partition, head, profile, dynamic: replace(
        Q4,
        partition=partition * 32,
        head=head,
        profile=profile,
        calibration=None if profile == "raw" else CALIBRATION,
        dynamic=dynamic,
    ),
    st.sampled_from("abc"),
    st.sampled_from(["fp32", "int8"]),
    st.sampled_from(["raw", "q8", "q4-zstd"]),
    st.booleans(),
)


@given(st.lists(POINTS, min_size=1, max_size=8, unique_by=lambda offer: offer.operating_point))
def test_what_an_edge_chooses_a_ue_takes(offers: list[SplitOffer]) -> None:
    edges = [EDGE, replace(EDGE, partition="a" * 32, heads=("int8",), profiles={"raw": None})]
    try:
        answer = choose(offers, edges)
    except NoCommonOperatingPoint:
        assert not any(edge.accepts(offer) for edge in edges for offer in offers)
    else:
        assert check_answer(offers, answer) == answer
