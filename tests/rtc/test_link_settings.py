from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc.link_settings import (
    MAX_CHANGES,
    MAX_DELAY,
    MAX_OUTAGES,
    MAX_TEXT,
    MAX_TRACE,
    LinkSettings,
    LinkTrace,
    QueueLimit,
    parse_link,
)
from splitrtc_errors import BadArgument


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("rtt=40,loss=1%,rate=5M", LinkSettings(delay=0.02, loss=0.01, rate=5e6)),
        ("rtt=0", LinkSettings()),
        (" delay = 7.5ms , jitter=0.003s ", LinkSettings(delay=0.0075, jitter=0.003)),
        ("loss=0.05,burst=4", LinkSettings(loss=0.05, burst=4)),
        ("loss=100%", LinkSettings(loss=1)),
        ("reorder=2%,duplicate=3%,corrupt=0.1%", LinkSettings(reorder=0.02, duplicate=0.03, corrupt=0.001)),
        ("rate=500k,queue=50", LinkSettings(rate=5e5, queue=QueueLimit(50))),
        ("rate=1.5G,queue=20ms", LinkSettings(rate=1.5e9, queue=QueueLimit(20))),
        ("rate=5M,queue=0.02s", LinkSettings(rate=5e6, queue=QueueLimit(20))),
        ("rate=9600,queue=64packets", LinkSettings(rate=9600, queue=QueueLimit(64, "packets"))),
        ("queue=65536bytes", LinkSettings(queue=QueueLimit(65536, "bytes"))),
        ("outage=5-7.5,outage=9-10,seed=7", LinkSettings(outages=((5, 7.5), (9, 10)), seed=7)),
    ],
)
def test_what_the_text_means(text: str, settings: LinkSettings) -> None:
    assert parse_link(text) == settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "KEY=VALUE with a KEY of rtt, delay"),
        ("rtt", "expected KEY=VALUE"),
        ("rtt=", "expected KEY=VALUE"),
        ("rtt=40,", "expected KEY=VALUE"),
        ("lag=40", "'lag=40': expected KEY=VALUE with a KEY of rtt"),
        ("rtt=-1", "rtt=-1: expected milliseconds, such as 40"),
        ("rtt=4e1", "expected milliseconds"),
        ("rtt=40us", "expected milliseconds"),
        ("rtt=\u0664\u0660", "expected milliseconds"),
        ("rtt=nan", "expected milliseconds"),
        ("rtt=60s", "link delay of 30, expected 0 to 10"),
        ("jitter=11s", "link jitter of 11, expected 0 to 10"),
        ("rtt=40,delay=20", "'delay=20': delay was set before"),
        ("loss=1", "loss=1: expected a percentage such as 1%, or a share below 1"),
        ("loss=101%", "link loss of 1.01, expected 0 to 1"),
        ("burst=0.5", "link burst of 0.5, expected 1 to 10000"),
        ("burst=4%", "expected a number of packets"),
        ("loss=60%,burst=1", "link loss of 60.0000% in bursts of 1 packets, expected at most 50.0000%"),
        ("rate=5m", "expected bits per second, such as 500k"),
        ("rate=0", "link rate of 0, expected 1000 to"),
        ("queue=5M", "expected milliseconds, packets or bytes"),
        ("queue=0packets", "link queue in packets of 0, expected 1 to"),
        ("queue=1000bytes", "link queue in bytes of 1000, expected 1500 to"),
        ("outage=5", "expected START-END in seconds"),
        ("outage=7-5", "link outage from 7 to 5 s, expected START before END"),
        ("outage=5-7,outage=6-8", "link outage from 6 to 8 s"),
        ("outage=5-9999999", "expected 0 to 1e+06"),
        ("seed=-1", "expected an integer"),
        ("seed=9999999999999999999", "link seed of 1e+19"),
        ("trace=/does/not/exist", "trace /does/not/exist: cannot be read as text"),
        ("rtt=40" + " " * MAX_TEXT, "expected at most 8192"),
    ],
)
def test_bad_text_says_in_one_line_what_was_expected(text: str, expected: str) -> None:
    with pytest.raises(BadArgument) as caught:
        parse_link(text)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(st.sampled_from("rtdelaybursoq=,.0123456789%kMGmsnp- "), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        settings = parse_link(text)
    except BadArgument:
        return
    assert parse_link(settings.format()) == settings


shares = st.floats(0, 1)
times = st.floats(0, MAX_DELAY)


@st.composite
def valid_settings(draw: st.DrawFn) -> LinkSettings:
    burst = draw(st.none() | st.floats(1, 10_000))
    points = draw(st.lists(st.floats(0, 1e6), unique=True, max_size=6).map(sorted))
    return LinkSettings(
        delay=draw(times),
        jitter=draw(times),
        loss=draw(shares if burst is None else st.floats(0, burst / (burst + 1))),
        burst=burst,
        reorder=draw(shares),
        duplicate=draw(shares),
        corrupt=draw(shares),
        rate=draw(st.none() | st.floats(1e3, 1e12)),
        queue=draw(
            st.builds(QueueLimit, st.floats(0, 1e4))
            | st.builds(QueueLimit, st.integers(1, 10_000).map(float), st.just("packets"))
            | st.builds(QueueLimit, st.integers(1_500, 2**24).map(float), st.just("bytes"))
        ),
        outages=tuple(zip(points[::2], points[1::2], strict=False)),
        seed=draw(st.integers(0, 2**63 - 1)),
    )


@given(valid_settings())
def test_settings_survive_the_way_through_text(settings: LinkSettings) -> None:
    assert parse_link(settings.format()) == settings


@given(valid_settings())
def test_loss_in_bursts_has_the_share_and_the_length_asked_for(settings: LinkSettings) -> None:
    stay, begin = settings.chance_of_loss(True), settings.chance_of_loss(False)
    assert 0 <= stay <= 1
    assert 0 <= begin <= 1 + 1e-9
    # The long-term share of a chain of two states.
    if begin + 1 - stay > 1e-9:
        assert begin / (begin + 1 - stay) == pytest.approx(settings.loss)
    if settings.burst is not None:
        assert (1 - stay) * settings.burst == pytest.approx(1)


def test_values_without_text_are_checked_too() -> None:
    for make in (
        lambda: LinkSettings(delay=float("nan")),
        lambda: QueueLimit(5, "pieces"),  # type: ignore[arg-type]
        lambda: LinkSettings(outages=tuple((at, at + 0.5) for at in range(MAX_OUTAGES + 1))),
        lambda: LinkSettings(outages=((-1, 5),)),
    ):
        with pytest.raises(BadArgument, match="expected"):
            make()


# Traces


def test_a_trace_changes_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "drive.trace"
    file.write_text("# a drive\n\n2   rate=1M,loss=3%\n4.5 rtt=80 # hand-over\n")
    settings = parse_link(f"rtt=40,rate=5M,seed=3,trace={file}")
    assert settings.steps() == [
        (0, LinkSettings(delay=0.02, rate=5e6, seed=3)),
        (2, LinkSettings(delay=0.02, rate=1e6, loss=0.03, seed=3)),
        (4.5, LinkSettings(delay=0.04, rate=1e6, loss=0.03, seed=3)),
    ]
    assert parse_link(settings.format()) == settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "trace t: 0 changes, expected 1 to"),
        ("1 loss=1% rtt=4", "trace t, line 1: expected SECONDS KEY=VALUE"),
        ("5", "trace t, line 1: expected SECONDS KEY=VALUE"),
        ("x loss=1%", "trace t, line 1: link setting time=x: expected seconds"),
        ("1 loss=1%\n1 loss=2%", "trace t, line 2: 1 s does not come after 1 s"),
        ("1 queue=5", "line 1: link setting 'queue=5': expected KEY=VALUE with a KEY of rtt"),
        ("1 trace=u", "line 1: link setting 'trace=u'"),
        ("\n".join(f"{at} rtt=1" for at in range(MAX_CHANGES + 1)), f"expected 1 to {MAX_CHANGES}"),
    ],
)
def test_a_bad_trace_names_its_line(text: str, expected: str) -> None:
    with pytest.raises(BadArgument) as caught:
        LinkTrace.parse(text, "t")
    assert expected in str(caught.value)


def test_a_trace_is_checked_together_with_the_settings_that_it_changes() -> None:
    trace = LinkTrace.parse("5 loss=90%", "t")
    assert LinkSettings(trace=trace).steps()[1] == (5, LinkSettings(loss=0.9))
    with pytest.raises(BadArgument, match="trace, from 5 s on: link loss of 90.0000% in bursts of 2"):
        LinkSettings(burst=2, trace=trace)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"#" * (MAX_TRACE + 1)])
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "trace"
    file.write_bytes(content)
    with pytest.raises(BadArgument, match="cannot be read as text|larger than"):
        LinkTrace.read(str(file))
