"""Models: cards, the zoo, partitions, the runtime, detection before and after, and codecs of intermediate data.

Names are loaded when they are first used: a card can be read without numpy, a head run without onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.calibration import Calibration
    from models.card import Decoding, ModelCard, PartitionCard, Preprocessing
    from models.codecs import (
        DecodedFrame,
        Decoder,
        EncodedFrame,
        Encoder,
        Profile,
        bits_per_element,
        calibration_for,
        is_accepted_unasked,
        is_calibrated,
        make_decoder,
        make_encoder,
        needs_calibration,
        parse_profile,
        profile_ids,
    )
    from models.detection import Detections, Detector, pack_detections, parse_detections, to_supervision
    from models.graph import Cut, Model, Part, split
    from models.identity import bytes_digest, digest_hex, file_digest, is_digest, is_partition_id, partition_id
    from models.information import (
        EndpointCapabilities,
        IntermediateData,
        ModelInformation,
        ServiceRequirements,
        SplitPoint,
        read_information,
    )
    from models.partition import Head, Partition, PartitionStore
    from models.preprocess import Preprocessor
    from models.resolve import resolve_model
    from models.runtime import Submodel, available_providers, load_submodel
    from models.tensor import TensorSpec
    from models.zoo import Zoo

_MODULES = {
    "models.calibration": ("Calibration",),
    "models.card": ("Decoding", "ModelCard", "PartitionCard", "Preprocessing"),
    "models.codecs": (
        "DecodedFrame",
        "Decoder",
        "EncodedFrame",
        "Encoder",
        "Profile",
        "make_decoder",
        "make_encoder",
        "bits_per_element",
        "calibration_for",
        "is_accepted_unasked",
        "is_calibrated",
        "needs_calibration",
        "parse_profile",
        "profile_ids",
    ),
    "models.detection": ("Detections", "Detector", "pack_detections", "parse_detections", "to_supervision"),
    "models.identity": ("bytes_digest", "digest_hex", "file_digest", "is_digest", "is_partition_id", "partition_id"),
    "models.information": (
        "EndpointCapabilities",
        "IntermediateData",
        "ModelInformation",
        "ServiceRequirements",
        "SplitPoint",
        "read_information",
    ),
    "models.graph": ("Cut", "Model", "Part", "split"),
    "models.partition": ("Head", "Partition", "PartitionStore"),
    "models.preprocess": ("Preprocessor",),
    "models.resolve": ("resolve_model",),
    "models.runtime": ("Submodel", "available_providers", "load_submodel"),
    "models.tensor": ("TensorSpec",),
    "models.zoo": ("Zoo",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Calibration",
    "Cut",
    "DecodedFrame",
    "Decoder",
    "Decoding",
    "Detections",
    "Detector",
    "EncodedFrame",
    "Encoder",
    "EndpointCapabilities",
    "Head",
    "IntermediateData",
    "Model",
    "ModelCard",
    "ModelInformation",
    "Part",
    "Partition",
    "PartitionCard",
    "PartitionStore",
    "Preprocessing",
    "Preprocessor",
    "Profile",
    "ServiceRequirements",
    "SplitPoint",
    "Submodel",
    "TensorSpec",
    "Zoo",
    "available_providers",
    "bits_per_element",
    "bytes_digest",
    "calibration_for",
    "digest_hex",
    "file_digest",
    "is_accepted_unasked",
    "is_calibrated",
    "is_digest",
    "is_partition_id",
    "load_submodel",
    "make_decoder",
    "make_encoder",
    "needs_calibration",
    "pack_detections",
    "parse_detections",
    "parse_profile",
    "partition_id",
    "profile_ids",
    "read_information",
    "resolve_model",
    "split",
    "to_supervision",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
