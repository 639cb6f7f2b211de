from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtc.sdp import (
    MAX_CHANNEL_ATTRIBUTES,
    MAX_CHANNELS,
    MAX_LINE,
    MAX_SDP,
    MAX_STREAM_ID,
    ChannelAttribute,
    ChannelMap,
    add_channel_attributes,
    read_channel_attributes,
)
from splitrtc_errors import BadArgument, ProtocolError

SESSION = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2\r\n"
AUDIO = "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n"
DATA = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=sctp-port:5000\r\n"
VIDEO = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:2\r\n"

# Text that can stand in a session description: no lone surrogates.
text = st.text(st.characters(codec="utf-8"), max_size=24)
stream_ids = st.integers(0, MAX_STREAM_ID)
u32 = st.none() | st.integers(0, 2**32 - 1)


@st.composite
def channel_maps(draw: st.DrawFn) -> ChannelMap:
    max_retr = draw(u32)
    return ChannelMap(
        draw(stream_ids),
        draw(st.none() | text),
        draw(st.none() | text),
        draw(st.booleans()),
        max_retr,
        draw(u32) if max_retr is None else None,
        draw(st.none() | st.integers(0, 65_535)),
    )


names = st.text("abcXYZ019-._!", min_size=1, max_size=12)
values = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=24)
attributes = st.builds(ChannelAttribute, stream_ids, names, values)


# --- one dcmap value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", ChannelMap(0)),
        ("00002", ChannelMap(2)),
        ('1023 label="x"', ChannelMap(1_023, "x")),
        ('2 subprotocol="a.b";label="c d";ordered=false;max-retr=0', ChannelMap(2, "c d", "a.b", False, 0)),
        ('2 label=""', ChannelMap(2, "")),
        ('2 label="a;b=c,%22%25%0a"', ChannelMap(2, 'a;b=c,"%\n')),
        ('2 label="%C3%A9%e2%82%ac"', ChannelMap(2, "é€")),
        ("2 max-time=1500;priority=65535;ordered=true", ChannelMap(2, max_time=1_500, priority=65_535)),
        ("2 ORDERED=FALSE;Max-Retr=4294967295", ChannelMap(2, ordered=False, max_retr=2**32 - 1)),
        ('2 x-new=7;label="l";other="q;%00";x-new=8', ChannelMap(2, "l")),
    ],
)
def test_a_channel_is_read(value: str, expected: ChannelMap) -> None:
    assert ChannelMap.parse(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "stream id ''"),
        ("x", "stream id 'x'"),
        ("-1", "stream id '-1'"),
        ("1024", "stream id 1024: 0 to 1023"),
        ("000001", "stream id '000001'"),
        ("\u0662", "stream id"),  # a digit, but not an ASCII one
        ("1_0", "stream id '1_0'"),
        ("2 ", "option ''"),
        ("2  ordered=true", "option ' ordered=true'"),
        ("2 ;", "option ';'"),
        ("2 ordered=true;", "option ''"),
        ("2 ordered=true; label=x", "option ' label=x'"),
        ('2 label="a"b', "continues with 'b'"),
        ('2 label="a', "option 'label=\"a'"),
        ("2 label=a", "label: expected a quoted string"),
        ('2 label="%4"', "option"),
        ('2 label="%GG"', "option"),
        ('2 label="é"', "option"),
        ('2 label="a\tb"', "option"),
        ('2 label="%ff"', "label is not UTF-8"),
        ('2 label="%ed%a0%80"', "label is not UTF-8"),
        ('2 label="a";label="a"', "label twice"),
        ("2 ordered=yes", "ordered: expected true or false"),
        ('2 ordered="true"', "ordered: expected true or false"),
        ("2 ordered=", "option 'ordered='"),
        ("2 max-retr=-1", "max-retr: expected a decimal number"),
        ("2 max-retr=01", "max-retr: expected a decimal number"),
        ("2 max-retr=\u0661", "option"),
        ('2 max-retr="1"', "max-retr: expected a decimal number"),
        ("2 max-retr=4294967296", "4294967296 is not within 0 to 4294967295"),
        ("2 max-time=99999999999", "max-time: expected a decimal number"),
        ("2 priority=65536", "65536 is not within 0 to 65535"),
        ("2 max-retr=0;max-time=0", "both max-retr and max-time"),
        ("2 new option=1", "option 'new option=1'"),
    ],
)
def test_a_malformed_channel_is_refused(value: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(message)):
        ChannelMap.parse(value)


@given(channel_maps())
def test_a_channel_survives_being_written_and_read(channel: ChannelMap) -> None:
    value = channel.format()
    assert value.isascii()
    assert value.isprintable()
    assert ChannelMap.parse(value) == channel


def test_only_what_must_be_is_escaped_in_a_label() -> None:
    printable = "".join(map(chr, range(0x20, 0x7F)))
    expected = printable.replace("%", "%25").replace('"', "%22")
    assert ChannelMap(1, printable + "\x7f\0é").format() == f'1 label="{expected}%7F%00%C3%A9"'


@pytest.mark.parametrize(
    "fields",
    [
        {"stream_id": -1},
        {"stream_id": 1_024},
        {"stream_id": 0, "max_retr": 0, "max_time": 0},
        {"stream_id": 0, "max_retr": -1},
        {"stream_id": 0, "max_time": 2**32},
        {"stream_id": 0, "priority": 2**16},
    ],
)
def test_an_impossible_channel_cannot_be_made(fields: dict[str, Any]) -> None:
    with pytest.raises(BadArgument, match=r"stream id|within|both"):
        ChannelMap(**fields)


def test_a_label_that_is_not_unicode_is_not_written() -> None:
    with pytest.raises(BadArgument, match="not Unicode"):
        ChannelMap(0, label="\ud800").format()


# --- one dcsa value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2 ai-split:1 model=a;fps=30", ChannelAttribute(2, "ai-split", "1 model=a;fps=30")),
        ("0 accept-types:text/plain", ChannelAttribute(0, "accept-types", "text/plain")),
        ("0 recvonly", ChannelAttribute(0, "recvonly")),
        ("0 a::b: é ", ChannelAttribute(0, "a", ":b: é ")),
    ],
)
def test_an_attribute_is_read_and_written(value: str, expected: ChannelAttribute) -> None:
    assert ChannelAttribute.parse(value) == expected
    assert expected.format() == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "stream id ''"),
        ("x a:b", "stream id 'x'"),
        ("1024 a:b", "stream id 1024"),
        ("2", "attribute name ''"),
        ("2 ", "attribute name ''"),
        ("2  a:b", "attribute name ' a'"),
        ("2 :b", "attribute name ''"),
        ("2 a b:c", "attribute name 'a b'"),
        ("2 é:c", "attribute name 'é'"),
        ("2 a:", "colon and no value"),
        ("2 a:\0", "value of attribute a"),
        ("2 a:b\rc", "value of attribute a"),
    ],
)
def test_a_malformed_attribute_is_refused(value: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(message)):
        ChannelAttribute.parse(value)


@given(attributes)
def test_an_attribute_survives_being_written_and_read(attribute: ChannelAttribute) -> None:
    assert ChannelAttribute.parse(attribute.format()) == attribute


@pytest.mark.parametrize(
    ("name", "value"), [("", "a"), ("a:b", "c"), ("a b", "c"), ("a", "b\r\na=x"), ("a", "\n"), ("a", "\udfff")]
)
def test_an_impossible_attribute_cannot_be_made(name: str, value: str) -> None:
    with pytest.raises(BadArgument, match="attribute"):
        ChannelAttribute(2, name, value)


# --- a whole description


@pytest.mark.parametrize("after", ["", VIDEO])
def test_lines_are_added_at_the_end_of_the_data_channel_section(after: str) -> None:
    edited = add_channel_attributes(
        SESSION + AUDIO + DATA + after,
        [ChannelMap(0, "control"), ChannelMap(2, ordered=False, max_retr=0)],
        [ChannelAttribute(2, "ai-split", "1 model=a")],
    )
    added = 'a=dcmap:0 label="control"\r\na=dcmap:2 ordered=false;max-retr=0\r\na=dcsa:2 ai-split:1 model=a\r\n'
    assert edited == SESSION + AUDIO + DATA + added + after


def test_line_endings_stay_as_they_are() -> None:
    plain = (SESSION + DATA).replace("\r\n", "\n")
    assert add_channel_attributes(plain, [ChannelMap(0)]) == plain + "a=dcmap:0\n"


def test_a_description_without_a_last_line_ending_gets_one() -> None:
    assert add_channel_attributes(DATA.rstrip(), [ChannelMap(0)]) == DATA + "a=dcmap:0\r\n"


distinct_maps = st.lists(channel_maps(), min_size=1, max_size=5, unique_by=lambda channel: channel.stream_id)


@given(distinct_maps, st.data())
def test_what_is_added_is_read_back(maps: list[ChannelMap], data: st.DataObject) -> None:
    ids = st.sampled_from([channel.stream_id for channel in maps])
    extra = data.draw(st.lists(st.builds(ChannelAttribute, ids, names, values), max_size=5))
    edited = add_channel_attributes(SESSION + DATA + VIDEO, maps, extra)
    assert read_channel_attributes(edited) == (maps, extra)
    assert read_channel_attributes(edited.replace("\r\n", "\n")) == (maps, extra)


def test_lines_outside_the_section_mean_nothing() -> None:
    stray = "a=dcmap:9\r\na=dcsa:9 a:b\r\na=dcmap:nonsense\r\n"
    sdp = SESSION + stray + AUDIO + stray + DATA + "a=dcmap:1\r\n" + VIDEO + stray
    assert read_channel_attributes(sdp) == ([ChannelMap(1)], [])


def test_a_description_without_channels_is_not_an_error() -> None:
    assert read_channel_attributes(SESSION + DATA) == ([], [])


def test_an_attribute_may_stand_before_its_channel() -> None:
    sdp = DATA + "a=dcsa:1 a\r\na=dcmap:1\r\n"
    assert read_channel_attributes(sdp) == ([ChannelMap(1)], [ChannelAttribute(1, "a")])


def test_data_channels_over_tcp_are_found() -> None:
    sdp = "m=application 54111 TCP/DTLS/SCTP webrtc-datachannel\r\na=dcmap:1\r\n"
    assert read_channel_attributes(sdp) == ([ChannelMap(1)], [])


@pytest.mark.parametrize(
    ("sdp", "message"),
    [
        ("", "0 data-channel sections"),
        (SESSION + AUDIO, "0 data-channel sections"),
        ("m=application 9 UDP/BFCP *\r\na=dcmap:1\r\n", "0 data-channel sections"),
        (DATA + AUDIO + DATA, "2 data-channel sections"),
        (DATA + "a=dcmap:1\r\na=dcmap:01\r\n", "two dcmap lines with one stream id"),
        (DATA + "a=dcmap:1\r\na=dcsa:2 a\r\n", "dcsa for channel 2"),
        (DATA + "a=dcmap:1024\r\n", "stream id 1024"),
        (DATA + "a=dcsa:0\r\n", "attribute name ''"),
        (DATA + "a=dcmap:0\ud800\r\n", "not Unicode"),
        ("x" * (MAX_SDP + 1), f"at most {MAX_SDP}"),
        ("é" * (MAX_SDP // 2 + 1), f"a session description of {MAX_SDP + 2} bytes or more"),
    ],
)
def test_a_malformed_description_is_refused(sdp: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(message)):
        read_channel_attributes(sdp)


def test_a_line_has_at_most_2048_bytes() -> None:
    room = MAX_LINE - len("a=dcsa:0 a:")
    fits = [ChannelAttribute(0, "a", "é" * (room // 2) + "x" * (room % 2))]
    edited = add_channel_attributes(DATA, [ChannelMap(0)], fits)
    assert read_channel_attributes(edited)[1] == fits
    with pytest.raises(BadArgument, match="2049 bytes, at most 2048"):
        add_channel_attributes(DATA, [ChannelMap(0)], [ChannelAttribute(0, "a", fits[0].value + "x")])


def test_a_description_has_at_most_128_kib() -> None:
    filler = "a=x:" + "y" * (MAX_SDP - len(DATA) - len("a=x:\r\n")) + "\r\n"
    assert read_channel_attributes(DATA + filler) == ([], [])
    with pytest.raises(BadArgument, match="at most 131072"):
        add_channel_attributes(DATA + filler, [ChannelMap(0)])


def test_a_section_has_at_most_64_channels_and_64_attributes() -> None:
    maps = [ChannelMap(number) for number in range(MAX_CHANNELS)]
    extra = [ChannelAttribute(0, "a", str(number)) for number in range(MAX_CHANNEL_ATTRIBUTES)]
    assert read_channel_attributes(add_channel_attributes(DATA, maps, extra)) == (maps, extra)
    with pytest.raises(BadArgument, match="more than 64 dcmap"):
        add_channel_attributes(DATA, [*maps, ChannelMap(64)])
    with pytest.raises(BadArgument, match="more than 64 dcmap or 64 dcsa"):
        add_channel_attributes(DATA, maps, [*extra, ChannelAttribute(0, "b")])


@pytest.mark.parametrize("sdp", [SESSION, DATA + DATA, DATA + "a=dcmap:0\r\n"])
def test_lines_are_not_added_where_they_could_not_be_read(sdp: str) -> None:
    with pytest.raises(BadArgument, match="cannot add these channels"):
        add_channel_attributes(sdp, [ChannelMap(0)])


SEED = add_channel_attributes(
    SESSION + DATA,
    [ChannelMap(0, "control", "splitrtc.control.v1"), ChannelMap(2, 'a"%é', "x", False, 0, None, 256)],
    [ChannelAttribute(2, "ai-split", "1 model=a;digest=sha-256:00"), ChannelAttribute(0, "recvonly")],
)


@given(st.data())
def test_a_mutated_description_is_read_or_refused(data: st.DataObject) -> None:
    # Mostly in the part that is looked at.
    start = SEED.index("m=application")
    sdp = SEED
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(start, len(sdp)))
        length = data.draw(st.integers(0, 3))
        sdp = sdp[:where] + data.draw(st.text(max_size=3) | st.sampled_from('";%= 019\r\n')) + sdp[where + length :]
    try:
        maps, extra = read_channel_attributes(sdp)
    except ProtocolError:
        return
    if maps:
        assert read_channel_attributes(add_channel_attributes(DATA, maps, extra)) == (maps, extra)


@given(st.text(max_size=60))
@example("\ud800 a:b")
@example("0 label=\ud800")
@example('0 label="\ud800"')
@example("0 a:\ud800")
def test_any_text_is_a_channel_or_an_attribute_or_refused(value: str) -> None:
    for kind in (ChannelMap, ChannelAttribute):
        try:
            read = kind.parse(value)
        except ProtocolError:
            continue
        assert kind.parse(read.format()) == read
