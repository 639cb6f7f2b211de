"""Metadata of split inference with the content of TR 26.927, clauses 6.6.2 to 6.6.5, as objects and as JSON.

The TR fixes what is said, not how: the JSON form is this project's own, and `information.schema.json` beside this
module is its JSON Schema. Each object is ``{"format": 1, "kind": ...}`` with the members below; what is not known is
left out. Sizes are in bytes, times in milliseconds, rates per second. Reading it loads neither numpy nor onnx.

=====================  ==========================  =========================================================
clause                 object                      the TR's terms
=====================  ==========================  =========================================================
6.6.2                  `ModelInformation`          model identifier, number of parameters, model size, input and
                                                   output size, accuracy, target inference latency, framework,
                                                   processing capabilities (MACs, memory)
6.6.3, split           `SplitPoint`                split point identifier, number, name, flag, intermediate data size
6.6.3, intermediate    `IntermediateData`          tensor structure, shape, element data type, data direction,
                                                   compression algorithm
6.6.4                  `ServiceRequirements`       maximum latency, minimum and expected accuracy, service type
6.6.5                  `EndpointCapabilities`      processing capabilities, frameworks, compression algorithms,
                                                   connection capabilities
=====================  ==========================  =========================================================
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

from models.codecs import is_profile_id
from models.identity import is_digest, partition_id
from models.members import Members, known, read_object
from models.tensor import TensorSpec
from splitrtc_errors import ModelFileError

__all__ = [
    "DIRECTIONS",
    "FLAGS",
    "EndpointCapabilities",
    "Information",
    "IntermediateData",
    "ModelInformation",
    "ServiceRequirements",
    "SplitPoint",
    "information_bytes",
    "read_information",
    "take_information",
]

FORMAT = 1
DIRECTIONS = ("up", "down")
"""From the UE to the network, and back."""
FLAGS = ("before", "after")
STRUCTURE = "splitrtc 1"
"""Tensor structure: elements row by row, little-endian (docs/protocol.md, section 4)."""

MAX_BYTES = 2**23
MAX_SIZE = 10**18
"""Bytes of a model's file."""
MAX_SPLIT_POINTS = 4096
MAX_TENSORS = 64
"""Of one split point, as in a parameter set."""
MAX_ENDS = 1024
"""Inputs or outputs of a model."""
MAX_NAMES = 64
"""Frameworks or profiles of an endpoint."""


def _read_tensors(members: Members, name: str, limit: int) -> tuple[TensorSpec, ...]:
    tensors = members.take_tensors(name)
    if len(tensors) > limit or len({tensor.name for tensor in tensors}) < len(tensors):
        raise ModelFileError(f"{members.where}: {name!r} has at most {limit} tensors, each of another name")
    return tensors


def _read_profiles(members: Members) -> tuple[str, ...]:
    profiles = _read_names(members, "profiles")
    if not all(map(is_profile_id, profiles)):
        raise ModelFileError(f"{members.where}: 'profiles' are ids of profiles")
    return profiles


def _read_names(members: Members, name: str) -> tuple[str, ...]:
    names = members.take(name, list)
    if len(names) > MAX_NAMES or not all(isinstance(item, str) and 1 <= len(item) <= 512 for item in names):
        raise ModelFileError(f"{members.where}: {name!r} is a list of at most {MAX_NAMES} texts")
    return tuple(names)


@dataclass(frozen=True, slots=True)
class IntermediateData:
    """What crosses a split point for one frame (clause 6.6.3); ``profiles`` are the compression algorithms."""

    tensors: tuple[TensorSpec, ...]
    direction: str = "up"
    profiles: tuple[str, ...] = ()
    structure: str = STRUCTURE

    @property
    def size(self) -> int:
        """Bytes without compression."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read it strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        members = Members(value, where)
        data = cls(
            tensors=_read_tensors(members, "tensors", MAX_TENSORS),
            direction=members.take_choice("direction", DIRECTIONS),
            profiles=_read_profiles(members),
            structure=members.take_text("structure"),
        )
        if members.take("size", int) != data.size:
            raise ModelFileError(f"{where}: 'size' is the bytes of the tensors, {data.size}")
        members.done()
        return data

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json()."""
        return {
            "structure": self.structure,
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "direction": self.direction,
            "profiles": list(self.profiles),
            "size": self.size,
        }


@dataclass(frozen=True, slots=True)
class SplitPoint:
    """A place where a model can be divided (clause 6.6.3).

    ``identifier`` is the partition id, computed from the model's digest and the names of the tensors that cross;
    ``number`` counts a model's split points; ``name`` is a node's, before or after (``flag``) which it lies.
    """

    identifier: str
    number: int
    name: str
    flag: str
    data: IntermediateData

    @classmethod
    def of(cls, model: str, number: int, name: str, flag: str, data: IntermediateData) -> Self:
        """Make one with its identifier; ``model`` is the digest of the model's file."""
        return cls(partition_id(model, [tensor.name for tensor in data.tensors]), number, name, flag, data)

    @classmethod
    def from_json(cls, value: object, model: str, where: str) -> Self:
        """Read it strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        members = Members(value, where)
        identifier = members.take("identifier", str)
        number = members.take_integer("number", 0, MAX_SPLIT_POINTS)
        name, flag = members.take_text("name"), members.take_choice("flag", FLAGS)
        data = IntermediateData.from_json(members.take("data", dict), f"{where}: data")
        members.done()
        if not data.tensors or identifier != partition_id(model, [tensor.name for tensor in data.tensors]):
            raise ModelFileError(f"{where}: 'identifier' is not that of its model and tensors")
        return cls(identifier, number, name, flag, data)

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json()."""
        return {
            "identifier": self.identifier,
            "number": self.number,
            "name": self.name,
            "flag": self.flag,
            "data": self.data.to_json(),
        }


@dataclass(frozen=True, slots=True)
class ModelInformation:
    """A model (clause 6.6.2) and its split points (6.6.3).

    ``identifier`` is the digest of its file and ``size`` that file's size, ``framework`` its format with versions,
    ``accuracy`` a percentage, ``target_latency`` for one run of the whole model, ``memory`` what that run needs.
    """

    kind: ClassVar = "model"

    identifier: str
    name: str
    framework: str
    size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int | None = None
    macs: int | None = None
    memory: int | None = None
    accuracy: float | None = None
    target_latency: float | None = None
    split_points: tuple[SplitPoint, ...] = ()

    @property
    def input_size(self) -> int:
        """Bytes of one set of inputs."""
        return sum(tensor.nbytes for tensor in self.inputs)

    @property
    def output_size(self) -> int:
        """Bytes of one set of outputs."""
        return sum(tensor.nbytes for tensor in self.outputs)

    @classmethod
    def from_members(cls, members: Members) -> Self:
        """Read what comes after format and kind."""
        where = members.where
        identifier = members.take("identifier", str)
        if not is_digest(identifier):
            raise ModelFileError(f"{where}: 'identifier' is 'sha-256:' and 64 lower-case hex digits")
        points = members.take("split_points", list)
        if len(points) > MAX_SPLIT_POINTS:
            raise ModelFileError(f"{where}: at most {MAX_SPLIT_POINTS} split points")
        information = cls(
            identifier=identifier,
            name=members.take_text("name"),
            framework=members.take_text("framework"),
            size=members.take_integer("size", 1, MAX_SIZE),
            inputs=_read_tensors(members, "inputs", MAX_ENDS),
            outputs=_read_tensors(members, "outputs", MAX_ENDS),
            parameters=members.take_count("parameters"),
            macs=members.take_count("macs"),
            memory=members.take_count("memory"),
            accuracy=members.take_number("accuracy", high=100.0),
            target_latency=members.take_number("target_latency"),
            split_points=tuple(
                SplitPoint.from_json(point, identifier, f"{where}: split point {number}")
                for number, point in enumerate(points)
            ),
        )
        sizes = members.take("input_size", int), members.take("output_size", int)
        if sizes != (information.input_size, information.output_size):
            raise ModelFileError(f"{where}: 'input_size' and 'output_size' are the bytes of the tensors")
        return information

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return known(
            format=FORMAT,
            kind=self.kind,
            identifier=self.identifier,
            name=self.name,
            framework=self.framework,
            size=self.size,
            parameters=self.parameters,
            macs=self.macs,
            memory=self.memory,
            accuracy=self.accuracy,
            target_latency=self.target_latency,
            inputs=[tensor.to_json() for tensor in self.inputs],
            input_size=self.input_size,
            outputs=[tensor.to_json() for tensor in self.outputs],
            output_size=self.output_size,
            split_points=[point.to_json() for point in self.split_points],
        )


@dataclass(frozen=True, slots=True)
class ServiceRequirements:
    """What a service needs (clause 6.6.4): latency with the delivery of intermediate data, accuracy in percent."""

    kind: ClassVar = "service"

    type: str
    max_latency: float | None = None
    min_accuracy: float | None = None
    accuracy: float | None = None

    @classmethod
    def from_members(cls, members: Members) -> Self:
        """Read what comes after format and kind."""
        return cls(
            type=members.take_text("type"),
            max_latency=members.take_number("max_latency"),
            min_accuracy=members.take_number("min_accuracy", high=100.0),
            accuracy=members.take_number("accuracy", high=100.0),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return known(
            format=FORMAT,
            kind=self.kind,
            type=self.type,
            max_latency=self.max_latency,
            min_accuracy=self.min_accuracy,
            accuracy=self.accuracy,
        )


@dataclass(frozen=True, slots=True)
class EndpointCapabilities:
    """What a UE or an edge can do now (clause 6.6.5).

    ``flops`` are the floating-point operations per second (two for each MAC) of one thread of the CPU, as the probe of
    `pipeline.capabilities` finds them, ``speedup`` is how many times as fast a model runs on the threads that it is
    given, ``memory`` is for weights and a run, ``profiles`` are the compression
    algorithms, ``rate`` is in bit/s from the UE to the edge, ``rtt`` the round trip's time. ``runtime`` is the one in
    use with its version, ``providers`` are what it can run models on, from the preferred one, ``cores`` those that
    may be used.
    """

    kind: ClassVar = "endpoint"

    frameworks: tuple[str, ...]
    profiles: tuple[str, ...]
    flops: float | None = None
    memory: int | None = None
    rate: float | None = None
    rtt: float | None = None
    runtime: str | None = None
    providers: tuple[str, ...] = ()
    cores: int | None = None
    speedup: float | None = None

    def at_speed(self, factor: float) -> Self:
        """The same endpoint so many times as fast."""
        return self if self.flops is None else replace(self, flops=self.flops * factor)

    @classmethod
    def from_members(cls, members: Members) -> Self:
        """Read what comes after format and kind."""
        return cls(
            frameworks=_read_names(members, "frameworks"),
            profiles=_read_profiles(members),
            flops=members.take_number("flops"),
            speedup=members.take_number("speedup"),
            memory=members.take_count("memory"),
            rate=members.take_number("rate"),
            rtt=members.take_number("rtt"),
            runtime=members.take_text("runtime") if members.has("runtime") else None,
            providers=_read_names(members, "providers") if members.has("providers") else (),
            cores=members.take_count("cores", low=1),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return known(
            format=FORMAT,
            kind=self.kind,
            frameworks=list(self.frameworks),
            profiles=list(self.profiles),
            flops=self.flops,
            speedup=self.speedup,
            memory=self.memory,
            rate=self.rate,
            rtt=self.rtt,
            runtime=self.runtime,
            providers=list(self.providers) or None,
            cores=self.cores,
        )


Information = ModelInformation | ServiceRequirements | EndpointCapabilities
Kind = TypeVar("Kind", ModelInformation, ServiceRequirements, EndpointCapabilities)

_KINDS: dict[str, type[Information]] = {
    kind.kind: kind for kind in (ModelInformation, ServiceRequirements, EndpointCapabilities)
}


def read_information(data: bytes, where: str = "metadata") -> Information:
    """Read the JSON form of any of them strictly; ModelFileError, which starts with ``where``, says what is wrong."""
    return _read(read_object(data, MAX_BYTES, where), tuple(_KINDS))


def take_information(members: Members, name: str, kind: type[Kind]) -> Kind:
    """Read a member that is the JSON form of one kind of metadata, as `read_information` does."""
    information = _read(Members(members.take(name, dict), f"{members.where}: {name}"), (kind.kind,))
    assert isinstance(information, kind)
    return information


def _read(members: Members, kinds: tuple[str, ...]) -> Information:
    if members.take("format", int) != FORMAT:
        raise ModelFileError(f"{members.where}: 'format' is not {FORMAT}; it was made for another version of splitrtc")
    information = _KINDS[members.take_choice("kind", kinds)].from_members(members)
    members.done()
    return information


def information_bytes(information: Information) -> bytes:
    """Return the content of a file of metadata; the inverse of read_information()."""
    return json.dumps(information.to_json(), allow_nan=False).encode() + b"\n"
