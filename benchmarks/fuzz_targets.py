"""The parsers that `benchmarks.fuzz` feeds: every reader of what a peer or a stranger's file says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models import Calibration, TensorSpec
    from models.codecs.klt_tables import KltTables

__all__ = ["Target", "targets"]


@dataclass(frozen=True, slots=True)
class Target:
    """A parser: ``read`` takes one input, ``good`` are inputs that it likes, ``raises`` is what it may raise."""

    name: str
    read: Callable[[bytes], object]
    good: Sequence[bytes]
    raises: tuple[type[Exception], ...] = ()
    is_text: bool = False


def targets() -> list[Target]:
    """Every reader of what a peer or a stranger's file says."""
    return [
        *_rtc_targets(),
        *_description_targets(),
        *_signaling_targets(),
        *_codec_targets(),
        *_file_targets(),
    ]


def _text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    """A parser of texts; what is not UTF-8 never gets as far as a parser."""
    return lambda data: read(data.decode("utf-8", "replace"))


def _rtc_targets() -> Iterator[Target]:
    from rtc import (
        Reassembler,
        Result,
        Status,
        Unit,
        heartbeat_unit,
        pack_result,
        pack_unit,
        parse_result,
        parse_unit,
        units_of_frame,
    )
    from splitrtc_errors import BadArgument, ProtocolError

    units = units_of_frame(1, 7, 10**9, [bytes(range(64)), b"x" * 90, b""])
    units += units_of_frame(2, 8, 10**9, [b"y" * 30] * 2, intra=False, reference=7)
    units += [heartbeat_unit(5), pack_unit(Unit(aips_id=1, frame_id=9, index=0, count=1, capture_us=1, parity=True))]
    yield Target("unit", parse_unit, units, (ProtocolError,))

    result = Result(
        status=Status.OK, frame_id=40, capture_us=9, slices=9, received=b"\xff\x01", output_kind=1, output=b"\0"
    )
    part = Result(
        status=Status.INCOMPLETE, frame_id=3, capture_us=9, slices=3, received=b"\x05", concealed=0.3, history=3
    )
    results = [pack_result(value) for value in (result, part)]
    yield Target("result", parse_result, results, (ProtocolError,))

    reassembler = Reassembler()
    reassembler.set_deadline(1, 0.05)
    reassembler.set_deadline(2, 0.05)
    clock = iter(range(10**12))

    def reassemble(data: bytes) -> None:
        now = next(clock) / 1000
        reassembler.receive(parse_unit(data), now)
        reassembler.poll(now)

    yield Target("reassembly", reassemble, units, (ProtocolError,))

    from rtc import Vp8Assembler

    assembler = Vp8Assembler()

    def assemble(data: bytes) -> None:
        sequence, flags = int.from_bytes(data[:2], "big"), data[2] if len(data) > 2 else 0
        assembler.add(sequence, flags & 3, bool(flags & 4), bool(flags & 8), data[3:], next(clock) / 1000)

    key = b"\x10\0\0\x9d\x01\x2a\x2c\x01\x2c\x01"
    yield Target("video", assemble, [b"\0\1\4" + key, b"\0\2\x08" + key, b"\0\3\x0c\x11"])

    from rtc import parse_link
    from rtc.link_settings import LinkTrace

    links = [
        b"rtt=40,loss=1%,rate=5M",
        b"delay=10ms,jitter=3,burst=4,loss=0.2,queue=64packets,seed=3",
        b"outage=1-2,outage=5-7.5",
    ]
    yield Target("link", _text(parse_link), links, (BadArgument,), is_text=True)
    trace = [b"0.5 rate=1M\n# a comment\n2 rate=8M,loss=2%\n3.5 rtt=80\n"]
    yield Target("link trace", _text(lambda text: LinkTrace.parse(text, "trace")), trace, (BadArgument,), is_text=True)


_OFFER = """v=0\r
o=- 3972 3972 IN IP4 0.0.0.0\r
s=-\r
t=0 0\r
a=group:BUNDLE 0\r
a=msid-semantic:WMS *\r
m=application 50001 UDP/DTLS/SCTP webrtc-datachannel\r
c=IN IP4 127.0.0.1\r
a=mid:0\r
a=sctp-port:5000\r
a=max-message-size:65536\r
a=candidate:1a2b 1 udp 2130706431 127.0.0.1 50001 typ host\r
a=candidate:3c4d 1 udp 1694498815 192.0.2.7 50002 typ srflx raddr 10.0.0.2 rport 50002\r
a=end-of-candidates\r
a=ice-ufrag:abcd\r
a=ice-pwd:abcdefghijklmnopqrstuv\r
a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\r
a=setup:actpass\r
"""


def _offer() -> str:
    from models import Zoo
    from pipeline.offers import points
    from rtc import ChannelAttribute, add_channel_attributes, channel_maps
    from signaling import attributes_of

    attributes = attributes_of([point.offer(30.0) for point in points(Zoo())[:3]])
    return add_channel_attributes(_OFFER, channel_maps(), [ChannelAttribute(2, *attribute) for attribute in attributes])


def _description_targets() -> Iterator[Target]:
    from aiortc.sdp import SessionDescription

    from rtc import intermediate_attributes, read_channel_attributes
    from rtc.transport import check_description
    from signaling import SplitOffer, offers_of, resume_attribute, resume_id_of, without_resume_id
    from splitrtc_errors import ProtocolError

    offer = _offer()
    whole = [offer.encode()]
    own = [line.encode() for line in offer.splitlines() if line.startswith(("a=dcmap", "a=dcsa"))]
    head = b"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"
    short = [head + b"\r\n".join(own[:count]) + b"\r\n" for count in (2, 3, 4)]
    yield Target("SDP channels", _text(read_channel_attributes), [*short, *whole], (ProtocolError,), is_text=True)

    def describe(text: str) -> None:
        check_description(text)
        offers_of(intermediate_attributes(text))

    yield Target("SDP offer", _text(describe), whole, (ProtocolError,), is_text=True)
    lines = [line.partition(b" ")[2].partition(b" ")[2] for line in own if line.startswith(b"a=dcsa")]
    assert lines
    yield Target("ai-split", _text(SplitOffer.parse), lines, (ProtocolError,), is_text=True)

    resumed = [b"a=dcsa:2 " + ":".join(resume_attribute(16 * "0f")).encode()]

    def resume(text: str) -> None:
        if resume_id_of(intermediate_attributes(text)) is None:
            raise ProtocolError("nothing to take out")
        if resume_id_of(intermediate_attributes(without_resume_id(text))) is not None:
            raise AssertionError("an id is left in an offer from which it was taken out")

    maps = [line for line in own if line.startswith(b"a=dcmap")]
    again = [head + b"\r\n".join([*maps, *lines]) + b"\r\n" for lines in (resumed, [*own[3:4], *resumed])]
    yield Target("ai-resume", _text(resume), again, (ProtocolError,), is_text=True)
    # aiortc's own parser: whatever it raises is caught; but it must come back, and free what it took.
    yield Target(
        "SDP in aiortc", _text(SessionDescription.parse), [_OFFER.encode(), *whole], (Exception,), is_text=True
    )


def _signaling_targets() -> Iterator[Target]:
    from models import TensorSpec
    from signaling import (
        Bye,
        Drain,
        ParameterSet,
        ParameterSetAck,
        ParameterSetRelease,
        PeerFailure,
        ReceivedSets,
        Report,
        parse_control,
        serialise_control,
    )
    from signaling.applications import REQUESTS
    from signaling.endpoint import SwapEndpoint
    from signaling.messages import (
        Accept,
        Application,
        Body,
        Close,
        Connect,
        Criterion,
        Message,
        Register,
        Reject,
        Response,
        Update,
    )
    from signaling.problems import EDGE_FULL, Problem, make_problem
    from signaling.swap import SECOND, STANDARD, MalformedMessage, parse, serialise
    from splitrtc_errors import ProtocolError

    digest = "sha-256:" + 64 * "a"
    tensors = (TensorSpec("Conv__979:0", "float32", (1, 80, 19, 19)), TensorSpec("b", "int64", ()))
    announced = ParameterSet(1, "up", digest, 32 * "b", "fp32", "q4-zstd", digest, tensors, 50, 500)
    messages = (
        announced,
        ParameterSetAck(1),
        ParameterSetRelease(1),
        Report({"loss": 0.5}),
        PeerFailure("x", "y"),
        Drain(10_000),
        Bye("z"),
    )
    control = [serialise_control(message).encode() for message in messages]
    yield Target("control", _text(parse_control), control, (ProtocolError,), is_text=True)

    sets: ReceivedSets[object] = ReceivedSets(lambda _: object())

    def receive(text: str) -> None:
        message = parse_control(text)
        if isinstance(message, ParameterSet | ParameterSetRelease):
            sets.receive(message)

    yield Target("parameter sets", _text(receive), control[:3], (ProtocolError,), is_text=True)

    problem = make_problem(EDGE_FULL, "all taken", acceptable=("a", "b"), retry_after=5.0)
    bodies: tuple[Body, ...] = (
        Register(()),
        Connect("v=0\r\n", (Criterion("fqdn", "edge.example"),)),
        Connect("v=0\r\n"),
        Accept("x" * 12, "v=0\r\n"),
        Accept("x" * 12),
        Update("x" * 12, "v=0\r\n"),
        Reject("x" * 12, 3, problem),
        Close("x" * 12),
        Application("x" * 12, "urn:x", {"a": [1, 2.5, None]}),
        Response(1, "x" * 12),
        Response(1, "x" * 12, problem),
    )
    for dialect in (STANDARD, SECOND):
        good = [
            serialise(Message("source-of-it", number, body), dialect).encode()
            for number, body in enumerate(bodies, 1)
            if dialect is STANDARD or body != Accept("x" * 12)  # there an accept has an answer
        ]
        name = "SWAP" if dialect is STANDARD else "SWAP, second dialect"
        yield Target(name, _text(partial(parse, dialect=dialect)), good, (MalformedMessage,), is_text=True)
        texts = good

    endpoint = SwapEndpoint("server", applications=REQUESTS)

    def exchange(text: str) -> None:
        nonlocal endpoint
        endpoint.receive(text)
        endpoint.take_outgoing()
        if endpoint.exhausted:
            endpoint = SwapEndpoint("server", applications=REQUESTS)

    yield Target("SWAP endpoint", _text(exchange), texts, (), is_text=True)
    problems = [json.dumps(problem.to_json()).encode(), b'"text"', b"plain"]
    yield Target("problem", _text(Problem.from_json), problems, (), is_text=True)
    yield from _procedure_targets()


def _procedure_targets() -> Iterator[Target]:
    from models.information import EndpointCapabilities, ServiceRequirements
    from signaling.applications import (
        InferenceRequest,
        InferenceResponse,
        InformationRequest,
        InformationResponse,
        Need,
        Selection,
        SelectionRequest,
        SelectionResponse,
        read_request,
        read_response,
        statement,
    )
    from signaling.manifest import read_manifest
    from signaling.strictjson import read_object
    from splitrtc_errors import ProtocolError

    digest = "sha-256:" + 64 * "a"
    device = EndpointCapabilities(("ONNX",), ("raw", "klt"), 5e9, 10**9, 2e7, 20.0, "ONNX Runtime 1.31", ("cpu",), 4)
    need = Need(ServiceRequirements("detection", 200.0, 25.0), device, models=(digest,), model="m", prefer="early")
    selection = Selection("split", digest, "fp32", 32 * "b", "raw", digest)
    requests = [
        statement(request)
        for request in (
            InferenceRequest(1, need, 32 * "c"),
            InformationRequest(1, need),
            SelectionRequest(1, selection, 32 * "c"),
        )
    ]
    told = read_manifest(_manifest())
    responses = [
        statement(response)
        for response in (
            InferenceResponse(1, selection, 1e4),
            InformationResponse(1, told.models, told.capabilities, told.load, told.state, selection),
            SelectionResponse(1, 1e4),
        )
    ]
    for name, read, said in (("request", read_request, requests), ("response", read_response, responses)):
        good = [json.dumps({"type": type_, "value": value}).encode() for type_, value in said]

        def take(text: str, read: Callable[[str, object], object] = read) -> None:
            fields = read_object(text, 2**22)
            type_ = fields.get("type")
            read(type_ if isinstance(type_, str) else "", fields.get("value"))

        yield Target(f"procedures, {name}", _text(take), good, (ProtocolError,), is_text=True)


def _codec_targets() -> Iterator[Target]:
    import numpy as np

    from models import (
        Calibration,
        Detections,
        TensorSpec,
        make_decoder,
        make_encoder,
        pack_detections,
        parse_detections,
        parse_profile,
    )
    from models.calibration import TensorCalibration, calibration_bytes
    from models.codecs.slices import parse_slice
    from models.identity import partition_id
    from splitrtc_errors import CodecError, ProtocolError

    specs = (TensorSpec("a", "float32", (1, 8, 6, 6)), TensorSpec("b", "float32", (1, 16)))
    digest = "sha-256:" + 64 * "a"
    ends = (np.full(8, -1, np.float32), np.full(8, 1, np.float32), np.zeros(8, np.float32))
    parts = [
        TensorCalibration("a", 1, *ends, **_tables(8)),
        TensorCalibration("b", 0, *(end[:1] for end in ends), **_tables(1)),
    ]
    calibration = Calibration.from_bytes(
        calibration_bytes(digest, partition_id(digest, [spec.name for spec in specs]), parts, "nothing")
    )
    rng = np.random.default_rng(1)
    values = [rng.normal(0, 0.5, spec.shape).astype(np.float32) for spec in specs]
    good: list[bytes] = []
    for name in (
        "raw",
        "q8-zstd",
        "q4-zstd",
        "q3-zstd",
        "q4-snappy",
        "q16-snappy",
        "q8-range",
        "q3-range",
        "pca",
        "clusters",
    ):
        profile = parse_profile(name)
        slices = make_encoder(profile, specs, calibration, 128).encode(1, values).slices
        good += slices
        decoder = make_decoder(profile, specs, calibration)

        def decode(data: bytes, decoder: Any = decoder, slices: list[bytes] = slices) -> None:
            decoded = decoder.decode(1, [slices[0], data, None, slices[-1]])
            if not all(np.isfinite(tensor).all() or np.isinf(tensor).any() for tensor in decoded.tensors):
                raise AssertionError("NaN came out of a decoder")

        yield Target(f"decoder {name}", decode, slices)
    first = replace(calibration, tensors=calibration.tensors[:1])
    yield from _klt_targets(specs[:1], values[:1], first)
    yield from _avc_targets(specs[:1], values[:1], first)
    yield Target("slice", lambda data: parse_slice(data, (288, 16)), good, (CodecError,))

    count = 5
    found = Detections(
        rng.uniform(0, 300, (count, 4)).astype(np.float32),
        np.linspace(1, 0.2, count, dtype=np.float32),
        np.arange(count),
    )
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    yield Target("detections", parse_detections, [pack_detections(found), pack_detections(empty)], (ProtocolError,))


def _klt_tables(channels: int) -> KltTables:
    """Tables that rotate nothing, for a value of one to be some steps wide."""
    import numpy as np

    from models.codecs.klt_tables import BLOCK, GAINS, OFFSETS, SCALES, KltTables, KltTransform
    from models.klt_fit import shares_of, start_weights

    def transform(edge: int) -> KltTransform:
        shape = (edge * edge, channels)
        basis = np.broadcast_to(100 * np.eye(channels, dtype=np.int8), (*shape, channels))
        levels = np.zeros((2, *shape), np.int8)
        return KltTransform(edge, basis, np.full(shape, 2**8, np.uint16), 10, levels, start_weights())

    kinds = (shares_of(np.ones(len(SCALES))), shares_of(np.ones(1 + (1 + len(GAINS)) * len(SCALES))))
    offsets = shares_of(np.ones(len(OFFSETS)))
    salience = np.full(channels, 2.0**-12, np.float32)
    transforms = (transform(BLOCK), transform(1))
    return KltTables(9, np.zeros(channels, np.int16), transforms, kinds, (offsets, offsets), salience)


def _tables(channels: int) -> dict[str, Any]:
    """All tables of a tensor: rotations that rotate nothing, codes that are all as likely."""
    import numpy as np

    from models.codecs.clusters_tables import SIZES, WORDS, ClustersTables, Codebook
    from models.codecs.pca_tables import PcaTables
    from models.codecs.range_tables import CODES, RangeTables

    mean, rows = np.zeros(channels, np.int16), 100 * np.eye(channels, dtype=np.int8)
    words = [np.arange(-(-channels // size) * WORDS * size).astype(np.int8) for size in SIZES]
    books = [
        Codebook(one.reshape(-1, WORDS, size), np.ones(-(-channels // size), np.uint8))
        for one, size in zip(words, SIZES, strict=True)
    ]
    return {
        "klt": _klt_tables(channels),
        "range": RangeTables(np.zeros(channels, np.uint8), np.full((1, CODES), CODES, np.uint16)),
        "pca": PcaTables(9, mean, rows, np.full(channels, 2**8, np.uint16), 12),
        "clusters": ClustersTables(9, mean, np.arange(channels, dtype=np.uint16), tuple(books)),
    }


def _avc_targets(
    specs: Sequence[TensorSpec], values: Sequence[NDArray[Any]], calibration: Calibration
) -> Iterator[Target]:
    import numpy as np

    from models import make_decoder, make_encoder, parse_profile
    from models.codecs.avc_messages import parse_message
    from splitrtc_errors import CodecError

    profile = parse_profile("avc:qp=1")
    encoder = make_encoder(profile, specs, calibration, 600)
    frames = [encoder.encode(number, [number * value for value in values]) for number in (1, 2)]
    for frame, name in zip(frames, ("keyframe", "predicted"), strict=True):
        decoder = make_decoder(profile, specs, calibration)
        decoder.decode(1, frames[0].slices)

        def decode(data: bytes, decoder: Any = decoder, frame: Any = frame) -> None:
            decoded = decoder.decode(2, [data, *frame.slices[1:]], frame.intra)
            if not all(np.isfinite(tensor).all() for tensor in decoded.tensors):
                raise AssertionError("something that is not finite came out of a decoder")

        yield Target(f"decoder avc, {name}", decode, frame.slices)
    sizes = [(32, 32)]
    yield Target("avc message", lambda data: parse_message(data, True, sizes), frames[0].slices, (CodecError,))


def _klt_targets(
    specs: Sequence[TensorSpec], values: Sequence[NDArray[Any]], calibration: Calibration
) -> Iterator[Target]:
    import numpy as np

    from models import make_decoder, make_encoder, parse_profile

    profile = parse_profile("klt:step=0.25")
    encoder = make_encoder(profile, specs, calibration, 64)
    frames = [encoder.encode(1, values), encoder.encode(2, [2 * value for value in values])]
    for frame, name in zip(frames, ("intra", "predicted"), strict=True):
        decoder = make_decoder(profile, specs, calibration)
        decoder.decode(1, frames[0].slices)

        def decode(data: bytes, decoder: Any = decoder, frame: Any = frame) -> None:
            slices = [frame.slices[0], data, None, frame.slices[-1]]
            decoded = decoder.decode(2, slices, frame.intra, frame.reference)
            if not all(np.isfinite(tensor).all() for tensor in decoded.tensors):
                raise AssertionError("something that is not finite came out of a decoder")

        yield Target(f"decoder klt, {name}", decode, frame.slices)


def _file_targets() -> Iterator[Target]:
    from models import Calibration, ModelCard, Zoo
    from models.information import read_information
    from signaling.manifest import read_manifest
    from splitrtc_errors import ModelError, ModelFileError, ProtocolError

    card = Zoo().get()
    path = card.calibration_path(next(cut for cut in card.partitions if cut.default))
    assert path is not None
    value = json.loads(path.read_bytes())
    # Short lists: a number is a number, wherever in the list it stands.
    for tensor in value["tensors"]:
        for name in ("low", "high", "mean"):
            tensor[name] = tensor[name][:3]
        tensor |= {name: tables.to_json() for name, tables in _tables(3).items()}
    yield Target("calibration", Calibration.from_bytes, [json.dumps(value).encode()], (ModelError,), is_text=True)

    texts = []
    for card in map(Zoo().get, Zoo().names()):
        text, classes = card.to_json(), len(card.labels)
        text["labels"] = text["labels"][:2]
        for output in text["outputs"]:
            output["shape"] = [{classes: 2, classes + 5: 7}.get(size, size) for size in output["shape"]]
        texts.append(json.dumps(text).encode())

    def read_card(data: bytes) -> None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ModelFileError("not JSON") from error
        ModelCard.from_json(value)

    yield Target("card", read_card, texts, (ModelError,), is_text=True)
    yield Target("information", read_information, _information(), (ModelError,), is_text=True)
    yield Target("manifest", read_manifest, [_manifest()], (ProtocolError,), is_text=True)


def _manifest() -> bytes:
    """A manifest with a model in it."""
    from models.information import EndpointCapabilities, ModelInformation, read_information
    from signaling.manifest import (
        EdgeLimits,
        File,
        Load,
        Manifest,
        ModelEntry,
        PartitionEntry,
        ProfileEntry,
        Service,
        VariantEntry,
        manifest_bytes,
    )

    model, _, endpoint = map(read_information, _information())
    assert isinstance(model, ModelInformation)
    assert isinstance(endpoint, EndpointCapabilities)
    file = File(model.identifier, 9, "a.onnx")
    profile = ProfileEntry("raw", file, 9.0, 1.0, 2.0, 30.5, 0.9)
    variants = (VariantEntry("fp32", file, 99, 5.0, 30.5),)
    partition = PartitionEntry(model.split_points[0].identifier, "early", variants, (profile,), tail_ms=3.0)
    models = (ModelEntry(model, file, "whole", (partition,), file, 20.0),)
    return manifest_bytes(
        Manifest(Service("x", "1"), "ready", Load(1, 2, 0.5), EdgeLimits(9, 30.0, 5e3), endpoint, models)
    )


def _information() -> list[bytes]:
    """Metadata of each kind."""
    from models.information import (
        EndpointCapabilities,
        IntermediateData,
        ModelInformation,
        ServiceRequirements,
        SplitPoint,
        information_bytes,
    )
    from models.tensor import TensorSpec

    digest = "sha-256:" + 64 * "a"
    data = IntermediateData((TensorSpec("a", "float32", (1, 8, 6, 6)), TensorSpec("b", "int8", ())), "up", ("raw",))
    point = SplitPoint.of(digest, 0, "Conv_1", "after", data)
    image = TensorSpec("image", "float32", (1, 3, 8, 8))
    return [
        information_bytes(information)
        for information in (
            ModelInformation(digest, "m", "ONNX", 9, (image,), (image,), 1, 2, 3, 4.5, 6.0, (point,)),
            ServiceRequirements("detection", 100.0, 25.0, 30.0),
            EndpointCapabilities(("ONNX Runtime 1.20",), ("raw", "q4-zstd"), 1e12, 10**9, 5e6),
        )
    ]
