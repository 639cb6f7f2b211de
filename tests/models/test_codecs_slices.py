from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.codecs.slices import MAX_ELEMENTS_PER_SLICE, MIN_PAYLOAD, Grain, Writer, parse_slice
from models.codecs.zstd import Compressor, Decompressor
from splitrtc_errors import CodecError

grains = st.sampled_from([Grain(1, 1), Grain(2, 1), Grain(1, 2), Grain(1, 4), Grain(1, 8)])


def header(tensor: int, first: int, elements: int) -> bytes:
    return struct.pack(">BIH", tensor, first, elements)


def grown(fixed: int) -> Callable[[memoryview], bytes]:
    """A compressor that only adds ``fixed`` bytes."""
    return lambda data: bytes(fixed) + bytes(data)


def coded_bytes(elements: int, grain: Grain) -> bytes:
    return bytes(index * index % 251 for index in range(-(-elements // grain.elements) * grain.nbytes))


def test_parses_a_header_without_copying_the_body() -> None:
    payload = memoryview(header(1, 3, 4) + b"body")
    parsed = parse_slice(payload, [10, 7])
    assert (parsed.tensor, parsed.first, parsed.elements, bytes(parsed.body)) == (1, 3, 4, b"body")
    assert parsed.body.obj is payload.obj


def test_a_body_may_be_empty_for_all_the_header_says() -> None:
    assert len(parse_slice(header(0, 0, 1), [1]).body) == 0


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "at least 7 bytes"),
        (header(0, 0, 1)[:-1], "at least 7 bytes"),
        (header(2, 0, 1), "tensor 2, of 2"),
        (header(255, 0, 1), "tensor 255, of 2"),
        (header(0, 0, 0), "0 elements"),
        (header(0, 0, 11), "11 elements from 0, of 10"),
        (header(0, 10, 1), "1 elements from 10, of 10"),
        (header(1, 2**32 - 1, 65535), "of 7"),
    ],
)
def test_headers_that_do_not_fit_the_tensors_are_refused(payload: bytes, reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        parse_slice(payload, [10, 7])


@given(st.binary(max_size=20), st.lists(st.integers(1, 2**26), max_size=3))
def test_whatever_parses_is_within_its_tensor(payload: bytes, sizes: list[int]) -> None:
    try:
        parsed = parse_slice(payload, sizes)
    except CodecError:
        return
    assert 0 <= parsed.first < parsed.first + parsed.elements <= sizes[parsed.tensor]


@given(grains, st.integers(1, 3000), st.integers(MIN_PAYLOAD, 300))
def test_plain_slices_hold_everything_once_in_order_and_are_full(grain: Grain, elements: int, limit: int) -> None:
    coded = coded_bytes(elements, grain)
    slices = list(Writer(limit).cut(5, elements, memoryview(coded), grain))
    position, bodies = 0, b""
    for payload in slices:
        parsed = parse_slice(payload, [0] * 5 + [elements])
        assert parsed.first == position
        position += parsed.elements
        bodies += parsed.body
        assert len(payload) <= limit
    assert (position, bodies) == (elements, coded)
    assert all(len(payload) > limit - grain.nbytes for payload in slices[:-1])


@given(grains, st.integers(1, 20_000), st.integers(MIN_PAYLOAD, 1140), st.integers(1, 256))
def test_compressed_slices_hold_everything_once_in_order(
    grain: Grain, elements: int, limit: int, alphabet: int
) -> None:
    coded = bytes(byte % alphabet for byte in coded_bytes(elements, grain))
    position, bodies = 0, b""
    for payload in Writer(limit, Compressor().compress).cut(0, elements, memoryview(coded), grain):
        parsed = parse_slice(payload, [elements])
        assert len(payload) <= limit
        assert parsed.first == position
        size = -(-parsed.elements // grain.elements) * grain.nbytes
        bodies += Decompressor().decompress(parsed.body, size)
        position += parsed.elements
    assert (position, bodies) == (elements, coded)


def test_compressed_slices_are_nearly_full() -> None:
    state, coded = 1, bytearray()
    for _ in range(20_000):
        state = (state * 1103515245 + 12345) % 2**31
        coded.append((state >> 16) % 16 * (state >> 24) % 16)
    slices = list(Writer(1140, Compressor().compress).cut(0, 20_000, memoryview(coded), Grain(1, 1)))
    assert len(slices) > 5
    assert min(map(len, slices[:-1])) > 1110


def test_a_slice_holds_no_more_elements_than_its_header_can_say() -> None:
    for grain in (Grain(1, 1), Grain(2, 1)):
        coded = memoryview(bytes(200_000 // grain.elements))
        slices = list(Writer(1140, Compressor().compress).cut(0, 200_000, coded, grain))
        counts = [parse_slice(payload, [200_000]).elements for payload in slices]
        assert sum(counts) == 200_000
        assert counts[0] == MAX_ELEMENTS_PER_SLICE // grain.elements * grain.elements
        assert len(counts) == 4


@pytest.mark.parametrize("fixed", [0, 9, 30, 49])
def test_data_that_cannot_be_compressed_are_cut_smaller(fixed: int) -> None:
    room = MIN_PAYLOAD - 7
    coded = memoryview(coded_bytes(1000, Grain(1, 8)))
    slices = list(Writer(MIN_PAYLOAD, grown(fixed)).cut(0, 1000, coded, Grain(1, 8)))
    assert all(len(payload) <= MIN_PAYLOAD for payload in slices)
    counts = [parse_slice(payload, [1000]).elements for payload in slices]
    assert sum(counts) == 1000
    assert max(counts) == (room - fixed) // 8


def test_a_slice_that_misleads_the_estimate_is_still_found() -> None:
    """The estimate goes wrong on purpose: size jumps, so that only halving finds what fits."""

    def compress(data: memoryview) -> bytes:
        return bytes(10 if len(data) <= 3 else 5000)

    slices = list(Writer(1140, compress).cut(0, 10, memoryview(bytes(10)), Grain(1, 1)))
    assert [parse_slice(payload, [10]).elements for payload in slices] == [3, 3, 3, 1]


def test_the_same_elements_are_always_cut_alike() -> None:
    coded = memoryview(coded_bytes(9000, Grain(1, 1)))
    writer = Writer(600, Compressor().compress)
    assert list(writer.cut(0, 9000, coded, Grain(1, 1))) == list(writer.cut(0, 9000, coded, Grain(1, 1)))
