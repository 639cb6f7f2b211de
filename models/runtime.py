"""Running a model or a part of it with ONNX Runtime.

ONNX Runtime comes in two packages that exclude each other, so neither is a base dependency, and falls back to the CPU
silently when a provider's libraries are missing. Hence the checks here.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, MissingDependency, ModelError, ModelFileError, ProviderError, TensorError

__all__ = [
    "PROVIDERS",
    "Submodel",
    "available_providers",
    "load_submodel",
    "open_session",
    "optimised_model",
    "runtime_version",
]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""What a caller asks for, and what ONNX Runtime calls it."""

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in ("bool", "float16", "int8", "int16", "int32", "int64")},
    **{f"tensor({name})": name for name in ("uint8", "uint16", "uint32", "uint64")},
}

_log = logging.getLogger(__name__)


class Submodel:
    """A model, head or tail that is ready to run. ``run`` may be called from several threads at once."""

    def __init__(self, session: Any, name: str) -> None:
        """Wrap an onnxruntime.InferenceSession; ``name`` is for messages."""
        self._session = session
        self.name = name
        self.inputs = _specs(session.get_inputs(), name)
        self.outputs = _specs(session.get_outputs(), name)
        self._input_dtypes = [np.dtype(spec.dtype) for spec in self.inputs]
        self._output_names = [spec.name for spec in self.outputs]

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers truly in use, as ONNX Runtime names them, in order of preference."""
        return tuple(self._session.get_providers())

    @property
    def provider(self) -> str:
        """The first provider in use: "cuda" or "cpu"."""
        return _provider(self._session)

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once: one array per input, in the order of ``inputs``; returns one per output, in theirs.

        TensorError when an array does not have its input's shape and element type; ModelError when the run fails.
        """
        if len(arrays) != len(self.inputs):
            raise TensorError(f"{self.name} takes {len(self.inputs)} tensors, {len(arrays)} came")
        for spec, dtype, array in zip(self.inputs, self._input_dtypes, arrays, strict=True):
            if array.shape != spec.shape or array.dtype != dtype:
                raise TensorError(f"{self.name} expects {spec}, {array.dtype}{list(array.shape)} came")
        feed = {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}
        try:
            outputs: list[NDArray[Any]] = self._session.run(self._output_names, feed)
        except Exception as error:  # ONNX Runtime's exceptions have no other common base
            raise ModelError(f"{self.name} failed while running: {error}") from error
        return outputs

    def warm_up(self, runs: int = 2) -> None:
        """Run on zeros: the first runs allocate memory and, on a GPU, choose kernels."""
        zeros = [np.zeros(spec.shape, spec.dtype) for spec in self.inputs]
        for _ in range(runs):
            self.run(zeros)


def available_providers() -> list[str]:
    """Return which of "cpu" and "cuda" the installed ONNX Runtime was built for; not whether they will work."""
    built_for = _onnxruntime().get_available_providers()
    return [short for short, name in PROVIDERS.items() if name in built_for]


def runtime_version() -> str:
    """Return the version of the installed ONNX Runtime; MissingDependency when there is none."""
    return str(_onnxruntime().__version__)


def load_submodel(model: Path | bytes, provider: str = "auto", threads: int = 1, optimise: bool = True) -> Submodel:
    """Load an ONNX model whose inputs and outputs have fixed shapes, from a file or from its bytes.

    Args and errors are those of `open_session`; ModelFileError also when an input or output has no fixed shape.
    ``Submodel.provider`` tells which provider "auto" found.
    """
    return Submodel(open_session(model, provider, threads, optimise), _name(model))


def open_session(
    model: Path | bytes,
    provider: str = "auto",
    threads: int = 1,
    optimise: bool = True,
    quiet: bool = False,
    profile: Path | None = None,
) -> Any:
    """Load any ONNX model, from a file or from its bytes; returns an onnxruntime.InferenceSession.

    Args:
        model: the file, or its content.
        provider: "cpu", "cuda", or "auto": CUDA if it works, else the CPU.
        threads: number of threads of one run on the CPU.
        optimise: False runs the graph node by node as it is written, for comparisons bit for bit.
        quiet: the runtime writes nothing of what it also raises, for runs that are expected to fail.
        profile: where the runtime writes the time of each node, when the session's profiling is ended; its name gets
            an ending.

    Raises:
        BadArgument: no such provider, or fewer than one thread.
        MissingDependency: ONNX Runtime is not installed.
        ModelFileError: the model cannot be read, or the runtime does not have one of its operators.
        ProviderError: CUDA was asked for and is not what the model would run on.
    """
    if provider != "auto" and provider not in PROVIDERS:
        raise BadArgument(f"provider is auto, {' or '.join(PROVIDERS)}, not {provider!r}")
    if threads < 1:
        raise BadArgument(f"a model runs on at least 1 thread, not {threads}")
    ort = _onnxruntime()
    built_for = available_providers()
    if provider == "cuda" and "cuda" not in built_for:
        raise ProviderError(
            "CUDA was asked for, but the installed ONNX Runtime is built for the CPU only; "
            "run: pip uninstall onnxruntime onnxruntime-gpu, then: pip install 'splitrtc[gpu]'"
        )
    wanted = "cpu" if provider == "cpu" or "cuda" not in built_for else "cuda"
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Waiting threads would spin and take the core from the other sessions, the codecs and the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4 if quiet else 3  # errors only
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if _branches(model):
        options.add_session_config_entry("optimization.disable_specified_optimizers", "ConstantFolding")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    providers: list[Any] = [PROVIDERS["cpu"]]
    if wanted == "cuda":
        ort.preload_dlls()  # those of the nvidia-* packages, which the system's loader does not find
        # The exhaustive search, which is the default, takes seconds per shape and wins little.
        providers.insert(0, (PROVIDERS["cuda"], {"cudnn_conv_algo_search": "HEURISTIC"}))
    name = _name(model)
    try:
        session = ort.InferenceSession(str(model) if isinstance(model, Path) else model, options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no other common base
        raise ModelFileError(f"cannot load {model if isinstance(model, Path) else name}: {error}") from error
    if (found := _provider(session)) != wanted:
        message = f"{name} would run on {found}, not {wanted}: the libraries of CUDA or cuDNN do not load"
        if provider != "auto":
            raise ProviderError(f"{message}; see what `splitrtc doctor` finds, or ask for provider auto or cpu")
        _log.warning(message)
    return session


def optimised_model(model: bytes) -> bytes:
    """Return the model that ONNX Runtime makes of one by fusions that hold on every machine; ModelFileError."""
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4  # it warns that the result is for this machine; it is only looked at
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimised.onnx")
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model, options, providers=[PROVIDERS["cpu"]])
            return path.read_bytes()
        except Exception as error:  # ONNX Runtime's exceptions have no other common base
            raise ModelFileError(f"cannot optimise the model: {error}") from error


def _branches(model: Path | bytes) -> bool:
    """Whether a model may have an If, by the name of an attribute of it.

    ONNX Runtime 1.31 may end the process when it takes one apart of which it has folded the condition (silero_vad with
    its sampling rate and its state as constants).
    """
    try:
        data = model.read_bytes() if isinstance(model, Path) else model
    except OSError:
        return False  # the runtime will say it
    return b"then_branch" in data


def _name(model: Path | bytes) -> str:
    return model.name if isinstance(model, Path) else "the model"


def _provider(session: Any) -> str:
    """The first provider in use: "cuda" or "cpu"."""
    return next(short for short, name in PROVIDERS.items() if name == session.get_providers()[0])


def _onnxruntime() -> Any:
    # Some builds keep usage records in the user's home for their maker. Whoever wants that sets the variable to 0.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency(
            f"ONNX Runtime is needed to run models ({error}); run: pip install 'splitrtc[cpu]', "
            "or 'splitrtc[gpu]' with an NVIDIA GPU"
        ) from error
    return onnxruntime


def _specs(arguments: Sequence[Any], name: str) -> tuple[TensorSpec, ...]:
    try:
        for argument in arguments:
            if not all(type(size) is int for size in argument.shape):
                raise TensorError(f"{argument.name} has no fixed shape: {argument.shape}")
        return tuple(TensorSpec(a.name, _DTYPES.get(a.type, a.type), tuple(a.shape)) for a in arguments)
    except TensorError as error:
        raise ModelFileError(f"{name} cannot be used: {error}") from error
