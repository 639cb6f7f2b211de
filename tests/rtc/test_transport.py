from __future__ import annotations

import pytest

from rtc.transport import (
    MAX_CANDIDATES,
    MAX_STREAMS,
    IceServer,
    admit_streams,
    check_description,
    checked_address,
    count_candidates,
    has_video,
    new_connection,
)
from splitrtc_errors import BadArgument, ProtocolError

CANDIDATE = "a=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host\r\n"


def description(*lines: str) -> str:
    return "v=0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n" + "".join(lines)


@pytest.mark.parametrize("address", [None, "127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"])
def test_addresses_that_can_be_bound(address: str | None) -> None:
    assert checked_address(address) == address


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1:80", "0.0.0.0", "::"])
def test_addresses_that_cannot_be_bound(address: str) -> None:
    with pytest.raises(BadArgument, match="bind address"):
        checked_address(address)


@pytest.mark.parametrize("lines", [[], [CANDIDATE] * MAX_CANDIDATES, ["a=max-message-size:65535\r\n"]])
def test_usable_descriptions(lines: list[str]) -> None:
    check_description(description(*lines))


def test_message_size_zero_means_no_limit() -> None:
    check_description(description("a=max-message-size:0\r\n"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("v=0\r\n", "0 media sections"),
        (description("m=audio 9 UDP/TLS/RTP/SAVPF 96\r\n"), "2 media sections"),
        (description(*["m=video 9 UDP/TLS/RTP/SAVPF 96\r\n"] * 2), "3 media sections"),
        (description(*[CANDIDATE] * (MAX_CANDIDATES + 1)), "65 candidates"),
        (description("a=max-message-size:65534\r\n"), "65534 bytes"),
    ],
)
def test_unusable_descriptions(text: str, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        check_description(text)


def test_candidates_are_counted() -> None:
    assert count_candidates(description()) == 0
    assert count_candidates(description(CANDIDATE, "a=mid:0\r\n", CANDIDATE)) == 2


@pytest.mark.parametrize("url", ["", "http://192.0.2.1", "stun:192.0.2.1:port", "turn:"])
def test_malformed_ice_server(url: str) -> None:
    with pytest.raises(BadArgument, match="ICE server"):
        new_connection([IceServer(url)])


def test_credential_is_not_shown() -> None:
    assert "secret" not in repr(IceServer("turn:192.0.2.1", "user", "secret"))


def test_streams_that_are_announced_are_admitted() -> None:
    connection = new_connection([])
    lines = [f"a=ssrc:{ssrc} cname:x\r\na=ssrc:{ssrc} msid:y z\r\n" for ssrc in range(1, MAX_STREAMS + 1)]
    admit_streams(connection, description(*lines))
    assert connection.streams == set(range(1, MAX_STREAMS + 1))  # type: ignore[attr-defined]
    with pytest.raises(ProtocolError, match="9 RTP streams"):
        admit_streams(connection, description(*lines, "a=ssrc:4294967295 cname:x\r\n"))
    admit_streams(connection, description())
    assert not connection.streams  # type: ignore[attr-defined]


def test_video_is_found_in_a_description() -> None:
    assert has_video(description("m=video 0 UDP/TLS/RTP/SAVPF 96\r\n"))
    assert not has_video(description("a=x:m=video\r\n"))
