from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tensor import ITEM_SIZES, TensorSpec
from rtc.sdp import ChannelAttribute, ChannelMap, add_channel_attributes, read_channel_attributes
from signaling.aisplit import ATTRIBUTE, MAX_OFFERS, SplitOffer, attributes_of, offers_of
from splitrtc_errors import BadArgument, ProtocolError

DIGEST = "sha-256:" + "0123456789abcdef" * 4
PARTITION = "0123456789abcdef" * 2
OFFER = SplitOffer(
    model="ssdlite_mbv2_coco_300",
    digest=DIGEST,
    partition=PARTITION,
    head="fp32",
    profile="q4-zstd",
    calibration=DIGEST,
    direction="up",
    fps=30,
    dynamic=False,
    tensors=(TensorSpec("Conv__979:0", "float32", (1, 64, 19, 19)),),
)
LINE = (
    f"model=ssdlite_mbv2_coco_300;digest={DIGEST};partition={PARTITION};head=fp32;profile=q4-zstd;cal={DIGEST};"
    "dir=up;fps=30;dynamic=0;tensors=Conv__979%253A0:float32:1x64x19x19"
)

HEX = "0123456789abcdef"
DIGESTS = st.text(HEX, min_size=64, max_size=64).map(lambda digits: f"sha-256:{digits}")
TENSORS = st.builds(
    TensorSpec,
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    st.sampled_from(sorted(ITEM_SIZES)),
    st.lists(st.integers(1, 8), max_size=8).map(tuple),
)
OFFERS = st.builds(
    SplitOffer,
    model=st.from_regex(r"[A-Za-z0-9][^\s]{0,20}", fullmatch=True).filter(str.isprintable),
    digest=DIGESTS,
    partition=st.text(HEX, min_size=32, max_size=32),
    head=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", fullmatch=True),
    profile=st.sampled_from(["raw", "q4-zstd", "klt:step=1.5", "klt:step=1.5,rank=24"]),
    calibration=st.none() | DIGESTS,
    direction=st.sampled_from(["up", "down"]),
    fps=st.floats(0.001, 1_000),
    dynamic=st.booleans(),
    tensors=st.lists(TENSORS, max_size=2).map(tuple),
)


@given(OFFERS)
def test_what_is_written_can_be_read(offer: SplitOffer) -> None:
    again = SplitOffer.parse(offer.format())
    assert again == offer
    assert again.tensors in (offer.tensors, ())
    assert again.format() == replace(offer, tensors=again.tensors).format()


@given(st.lists(OFFERS, min_size=1, max_size=5))
def test_offers_travel_through_a_session_description(offers: list[SplitOffer]) -> None:
    sdp = "v=0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=sctp-port:5000\r\n"
    attributes = [ChannelAttribute(2, name, value) for name, value in attributes_of(offers)]
    _, received = read_channel_attributes(add_channel_attributes(sdp, [ChannelMap(2)], attributes))
    assert offers_of((attribute.name, attribute.value) for attribute in received) == offers


@given(OFFERS, st.data())
def test_mutated_lines_are_read_or_refused(offer: SplitOffer, data: st.DataObject) -> None:
    text = offer.format()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    try:
        again = SplitOffer.parse(text[:start] + data.draw(st.text(max_size=5)) + text[end:])
    except ProtocolError:
        return
    assert SplitOffer.parse(again.format()) == again


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        SplitOffer.parse(text)
    with pytest.raises(ProtocolError):
        offers_of([(ATTRIBUTE, text)])


def test_the_line_of_the_protocol_page() -> None:
    assert OFFER.format() == LINE
    assert SplitOffer.parse(LINE) == OFFER
    assert SplitOffer.parse(LINE).tensors == OFFER.tensors


def test_the_order_of_parameters_is_free_and_unknown_ones_are_ignored() -> None:
    parameters = LINE.split(";")
    assert SplitOffer.parse(";".join(["X_new-1=%FF", *reversed(parameters)])) == OFFER


def test_values_are_percent_encoded_exactly() -> None:
    offer = replace(OFFER, model="Ä;=%x", profile="klt:step=1.5", tensors=())
    text = offer.format()
    assert "model=%C3%84%3B%3D%25x;" in text
    assert "profile=klt:step%3D1.5;" in text
    assert SplitOffer.parse(text) == offer
    assert SplitOffer.parse(text.replace("%C3%84", "%c3%84")) == offer
    assert SplitOffer.parse(text.replace("step", "%73tep")) == offer


@pytest.mark.parametrize(
    ("fps", "text"),
    [(30, "30"), (29.97, "29.97"), (30_000 / 1_001, "29.97"), (0.001, "0.001"), (1_000, "1000"), (10, "10")],
)
def test_frame_rates_have_at_most_three_decimals(fps: float, text: str) -> None:
    line = replace(OFFER, fps=fps).format()
    assert f";fps={text};" in line
    assert SplitOffer.parse(line) == replace(OFFER, fps=fps)


def test_a_scalar_tensor_has_no_dimensions() -> None:
    offer = replace(OFFER, tensors=(TensorSpec("a", "int64", ()), TensorSpec("b,c", "bool", (3,))))
    assert offer.format().endswith("tensors=a:int64:,b%252Cc:bool:3")
    assert SplitOffer.parse(offer.format()).tensors == offer.tensors


def test_tensors_that_do_not_fit_are_left_out() -> None:
    many = tuple(TensorSpec(f"tensor{i}", "float32", (1, 2, 3)) for i in range(30))
    assert "tensors" not in replace(OFFER, tensors=many).format()


def test_tensors_do_not_distinguish_offers() -> None:
    assert replace(OFFER, tensors=()) == OFFER
    assert replace(OFFER, fps=10, dynamic=True, model="x").operating_point == OFFER.operating_point
    assert replace(OFFER, head="fp16").operating_point != OFFER.operating_point


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": ""}, "model"),
        ({"model": "a b"}, "model"),
        ({"model": "a\x1b"}, "model"),
        ({"model": "a" * 129}, "model"),
        ({"model": "a\ud800"}, "model"),
        ({"digest": DIGEST.upper()}, "digest"),
        ({"digest": DIGEST[:-1]}, "digest"),
        ({"partition": PARTITION + "0"}, "partition"),
        ({"head": ""}, "head"),
        ({"head": "../fp32"}, "head"),
        ({"profile": ""}, "profile"),
        ({"profile": "q4:"}, "profile"),
        ({"profile": "Q4"}, "profile"),
        ({"profile": "p:" + ",".join(["k=v"] * 32)}, "profile"),
        ({"calibration": "none"}, "cal"),
        ({"direction": "sideways"}, "dir"),
        ({"fps": 0}, "fps"),
        ({"fps": 0.0001}, "fps"),
        ({"fps": 1_000.001}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"fps": -1}, "fps"),
    ],
)
def test_values_outside_their_limits_are_no_offer(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadArgument, match=f"^{reason} is "):
        replace(OFFER, **change)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (";dir=up", "", "dir missing"),
        (";dir=up;fps=30", "", "dir, fps missing"),
        ("dir=up", "dir=up;dir=up", "dir twice"),
        ("dir=up", "dir=", "dir is up or down"),
        ("dir=up", "dir", "expected name=value"),
        ("dir=up", "dir=up;", "expected name=value"),
        ("dir=up", "dir=u p", "expected name=value"),
        ("dir=up", "dir=%7", "expected name=value"),
        ("dir=up", "dir=\N{SNOWMAN}", "expected name=value"),
        ("dir=up", "dir=%FF", "not UTF-8"),
        ("fps=30", "fps=30.0000", "fps"),
        ("fps=30", "fps=030", "fps"),
        ("fps=30", "fps=1e1", "fps"),
        ("fps=30", "fps=1001", "fps"),
        ("fps=30", "fps=0", "fps"),
        ("dynamic=0", "dynamic=2", "dynamic"),
        (f"cal={DIGEST}", "cal=", "cal"),
        ("fp32", "f" * 2_000, "more than 2000"),
    ],
)
def test_malformed_lines_are_refused(old: str, new: str, reason: str) -> None:
    assert old in LINE
    with pytest.raises(ProtocolError, match=reason):
        SplitOffer.parse(LINE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1x64x19x19", "1x64x19x"),
        ("1x64x19x19", "1x064"),
        ("1x64x19x19", "1x1x1x1x1x1x1x1x1"),
        ("1x64x19x19", "99999999"),
        ("1x64x19x19", "1:2"),
        ("float32", "bfloat16"),
        ("Conv__979%253A0", ""),
        ("Conv__979%253A0", "%25FF"),
        ("Conv__979%253A0", "%FF"),
        ("Conv__979%253A0", "a" * 512),
        ("Conv__979%253A0:float32:1x64x19x19", ""),
    ],
)
def test_tensors_that_cannot_be_read_are_left_out(old: str, new: str) -> None:
    offer = SplitOffer.parse(LINE.replace(old, new))
    assert offer == OFFER
    assert offer.tensors == ()


def test_a_line_that_would_be_too_long_is_not_written() -> None:
    # Each of the model's 128 characters takes 12 bytes, each "=" of the profile 3.
    digit = "\N{MATHEMATICAL DOUBLE-STRUCK DIGIT ONE}"
    profile = "p:" + ",".join(["k=v"] * 31)
    offer = replace(OFFER, model=digit * 128, head="h" * 32, profile=profile, fps=999.999, tensors=())
    with pytest.raises(BadArgument, match="2005 bytes: at most 2000"):
        offer.format()
    assert SplitOffer.parse(replace(offer, fps=1).format()) == replace(offer, fps=1)


def test_preferences_give_the_order() -> None:
    first, second = OFFER, replace(OFFER, fps=10)
    attributes = [(ATTRIBUTE, f"200 {second.format()}"), ("other", "1"), (ATTRIBUTE, f"3 {first.format()}")]
    assert offers_of(attributes) == [first, second]
    assert offers_of([("other", "1 model=a")]) == []
    assert [value.split(" ")[0] for _, value in attributes_of([first, second])] == ["1", "2"]


@pytest.mark.parametrize("preference", ["0", "256", "01", "", "-1", "one", "1.0", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_preferences_are_1_to_255(preference: str) -> None:
    with pytest.raises(ProtocolError, match="preference"):
        offers_of([(ATTRIBUTE, f"{preference} {LINE}")])


def test_preferences_are_distinct_and_lines_are_few() -> None:
    with pytest.raises(ProtocolError, match="same preference"):
        offers_of([(ATTRIBUTE, f"1 {LINE}")] * 2)
    lines = [(ATTRIBUTE, f"{n} {LINE}") for n in range(1, MAX_OFFERS + 2)]
    assert len(offers_of(lines[:-1])) == MAX_OFFERS
    with pytest.raises(ProtocolError, match="more than 32"):
        offers_of(lines)
    for count in (0, MAX_OFFERS + 1):
        with pytest.raises(BadArgument, match="1 to 32"):
            attributes_of([OFFER] * count)
