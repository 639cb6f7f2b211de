"""A manifest, and strategies for any: for the tests of what reads, makes and uses one."""

from __future__ import annotations

from hypothesis import strategies as st

from models.identity import bytes_digest
from models.information import EndpointCapabilities, IntermediateData, ModelInformation, SplitPoint
from models.tensor import TensorSpec
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
)

DIGEST = bytes_digest(b"a model")
IMAGE = TensorSpec("image", "float32", (1, 3, 300, 300))


def point(number: int, name: str, *tensors: TensorSpec) -> SplitPoint:
    return SplitPoint.of(DIGEST, number, name, "after", IntermediateData(tensors, profiles=("q4-zstd", "raw")))


EARLY = point(0, "early", TensorSpec("a", "float32", (1, 32, 38, 38)))
LATE = point(1, "late", TensorSpec("b", "float32", (1, 64, 19, 19)))
INPUT = point(2, "input", IMAGE)

MANIFEST = Manifest(
    service=Service("a test", "1.0"),
    state="ready",
    load=Load(2, 100, 0.5),
    limits=EdgeLimits(16, 60.0, 10_000.0),
    capabilities=EndpointCapabilities(
        ("ONNX",),
        ("raw", "q4-zstd"),
        flops=20e9,
        memory=8 * 10**9,
        runtime="onnxruntime 1.31",
        providers=("CPU",),
        cores=8,
    ),
    models=(
        ModelEntry(
            information=ModelInformation(
                DIGEST,
                "tiny",
                "ONNX IR 8, ai.onnx 17",
                1_000_000,
                (IMAGE,),
                (TensorSpec("scores", "float32", (1, 10)),),
                macs=800_000_000,
                memory=50_000_000,
                accuracy=30.0,
                split_points=(EARLY, LATE, INPUT),
            ),
            card=File(bytes_digest(b"card"), 4, "card.json"),
            deliver="whole",
            whole=File(DIGEST, 1_000_000, "tiny.onnx"),
            whole_ms=40.0,
            partitions=(
                PartitionEntry(
                    EARLY.identifier,
                    "early",
                    (VariantEntry("fp32", File(bytes_digest(b"early"), 100_000, "early.onnx"), 160_000_000, 10.0),),
                    (
                        ProfileEntry("raw", bytes=184_832.0, encode_ms=0.1, decode_ms=0.1, accuracy=30.0),
                        ProfileEntry(
                            "q4-zstd",
                            File(bytes_digest(b"calibration"), 900, "early.calibration.json"),
                            14_000.0,
                            0.5,
                            0.4,
                            28.5,
                            0.95,
                        ),
                    ),
                    tail_ms=8.0,
                ),
                PartitionEntry(
                    LATE.identifier,
                    "late",
                    (VariantEntry("fp32", head_macs=480_000_000, head_ms=25.0), VariantEntry("int8", accuracy=28.0)),
                    (ProfileEntry("q4-zstd", bytes=6_000.0),),
                    tail_ms=4.0,
                ),
                PartitionEntry(
                    INPUT.identifier,
                    "input",
                    (VariantEntry("fp32", head_macs=0),),
                    (ProfileEntry("raw", bytes=1_080_000.0),),
                    carries_input=True,
                    tail_ms=12.0,
                ),
            ),
        ),
    ),
)

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,7}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
numbers = st.none() | st.floats(0, 1e9)
percents = st.none() | st.floats(0, 100)
counts = st.none() | st.integers(0, 10**12)
profiles = st.sampled_from(["raw", "q4-zstd", "klt:step=1.5"])
files = st.builds(File, st.binary(max_size=3).map(bytes_digest), st.integers(1, 2**34), names)
capabilities = st.builds(
    EndpointCapabilities,
    st.lists(texts, max_size=2).map(tuple),
    st.lists(profiles, max_size=2).map(tuple),
    numbers,
    counts,
    numbers,
    numbers,
    st.none() | texts,
    st.lists(texts, max_size=2).map(tuple),
    st.none() | st.integers(1, 256),
)


@st.composite
def models(draw: st.DrawFn) -> ModelEntry:
    digest = draw(st.binary(max_size=6).map(bytes_digest))
    deliver = draw(st.sampled_from(["head", "whole", "none"]))
    points = [
        SplitPoint.of(digest, number, name, "after", IntermediateData((TensorSpec(name, "float32", (1, 4)),)))
        for number, name in enumerate(draw(st.lists(names, max_size=3, unique=True)))
    ]
    heads = st.none() if deliver == "none" else st.none() | files
    variants = st.builds(VariantEntry, names, heads, counts, numbers, percents)
    coded = st.builds(
        ProfileEntry, profiles, st.none() | files, numbers, numbers, numbers, percents, st.none() | st.floats(0, 1)
    )
    partitions = [
        PartitionEntry(
            point.identifier,
            point.name,
            tuple(draw(st.lists(variants, max_size=2, unique_by=lambda variant: variant.name))),
            tuple(draw(st.lists(coded, max_size=2, unique_by=lambda profile: profile.profile))),
            draw(st.booleans()),
            draw(numbers),
        )
        for point in points
    ]
    information = ModelInformation(
        digest, draw(texts), "ONNX", 9, (IMAGE,), (), macs=draw(counts), split_points=tuple(points)
    )
    whole = draw(st.none() | files) if deliver == "whole" else None
    return ModelEntry(information, draw(files), deliver, tuple(partitions), whole, draw(numbers))


manifests = st.builds(
    Manifest,
    st.builds(Service, texts, texts),
    st.sampled_from(["ready", "warming", "draining", "full"]),
    st.builds(Load, st.integers(0, 2**31), st.integers(0, 2**31), numbers),
    st.builds(EdgeLimits, counts, numbers, numbers),
    capabilities,
    st.lists(models(), max_size=2, unique_by=lambda model: model.information.identifier).map(tuple),
)
