from __future__ import annotations

import builtins
import logging
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx.parser import parse_model

from models.runtime import available_providers, load_submodel
from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, MissingDependency, ModelError, ModelFileError, ProviderError, TensorError

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'


def model(text: str) -> bytes:
    data: bytes = parse_model(HEADER + text).SerializeToString()
    return data


SUMS = model(
    """g (float[2] a, int64[2] b) => (float[2] total, float[2] double)
    { c = Cast<to=1>(b) total = Add(a, c) double = Add(a, a) }"""
)
A, B = np.array([1, 2], np.float32), np.array([10, 20], np.int64)


def test_a_model_runs_from_bytes_and_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sums.onnx"
    path.write_bytes(SUMS)
    for source in (SUMS, path):
        submodel = load_submodel(source, "cpu")
        submodel.warm_up()
        total, double = submodel.run([A, B])
        np.testing.assert_array_equal(total, np.array([11, 22], np.float32))
        np.testing.assert_array_equal(double, np.array([2, 4], np.float32))


def test_inputs_and_outputs_are_described_in_the_models_order() -> None:
    submodel = load_submodel(SUMS, "cpu")
    assert submodel.inputs == (TensorSpec("a", "float32", (2,)), TensorSpec("b", "int64", (2,)))
    assert submodel.outputs == (TensorSpec("total", "float32", (2,)), TensorSpec("double", "float32", (2,)))


@pytest.mark.parametrize(
    "name", ["bool", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)
def test_every_element_type_passes_through(name: str) -> None:
    submodel = load_submodel(model(f"g ({name}[3] x) => ({name}[3] y) {{ y = Identity(x) }}"), "cpu")
    assert submodel.inputs == (TensorSpec("x", name, (3,)),)
    x = np.array([0, 1, 1]).astype(name)
    (y,) = submodel.run([x])
    np.testing.assert_array_equal(x, y)
    assert x.dtype == y.dtype


def test_floats_are_named_as_numpy_names_them() -> None:
    submodel = load_submodel(model("g (double[1] x) => (float[1] y) { y = Cast<to=1>(x) }"), "cpu")
    assert (submodel.inputs[0].dtype, submodel.outputs[0].dtype) == ("float64", "float32")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([A], "takes 2 tensors, 1 came"),
        ([A, B, B], "takes 2 tensors, 3 came"),
        ([A, B.astype(np.int32)], r"expects b int64\[2\], int32\[2\] came"),
        ([A.astype(">f4"), B], r"expects a float32\[2\], >f4\[2\] came"),
        ([A.reshape(2, 1), B], r"expects a float32\[2\], float32\[2, 1\] came"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(arrays: list[Any], message: str) -> None:
    with pytest.raises(TensorError, match=message):
        load_submodel(SUMS, "cpu").run(arrays)


def test_arrays_need_not_be_contiguous() -> None:
    wide = np.array([[1, 0], [2, 0]], np.float32)
    total, _ = load_submodel(SUMS, "cpu").run([wide[:, 0], B])
    np.testing.assert_array_equal(total, np.array([11, 22], np.float32))


def test_a_run_that_fails_is_a_model_error() -> None:
    submodel = load_submodel(model("g (float[2] x, int64[1] i) => (float[1] y) { y = Gather(x, i) }"), "cpu")
    with pytest.raises(ModelError, match="failed while running"):
        submodel.run([A, np.array([9], np.int64)])


def test_threads_may_share_a_submodel() -> None:
    submodel = load_submodel(SUMS, "cpu")
    wrong = []

    def work(value: int) -> None:
        for _ in range(50):
            total, _ = submodel.run([np.full(2, value, np.float32), B])
            if total[0] != value + 10:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot load the model"):
        load_submodel(b"nonsense", "cpu")
    with pytest.raises(ModelFileError, match=r"cannot load .*nowhere\.onnx"):
        load_submodel(tmp_path / "nowhere.onnx", "cpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g (float[N] x) => (float[N] y) { y = Neg(x) }", r"x has no fixed shape: \['N'\]"),
        ("g (float[2] x) => (int64[1,K] y) { y = NonZero(x) }", r"y has no fixed shape"),
        ("g (string[1] x) => (string[1] y) { y = Identity(x) }", r"element type 'tensor\(string\)'"),
    ],
)
def test_models_of_no_fixed_shape_or_no_numbers_are_refused(text: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        load_submodel(model(text), "cpu")


def test_arguments_are_checked() -> None:
    with pytest.raises(BadArgument, match="provider is auto, cpu or cuda, not 'gpu'"):
        load_submodel(SUMS, "gpu")
    with pytest.raises(BadArgument, match="at least 1 thread, not 0"):
        load_submodel(SUMS, threads=0)


def test_the_provider_in_use_is_told() -> None:
    submodel = load_submodel(SUMS, "cpu")
    assert submodel.provider == "cpu"
    assert submodel.providers == ("CPUExecutionProvider",)


def test_auto_takes_what_there_is() -> None:
    assert load_submodel(SUMS).provider in available_providers()


@pytest.mark.skipif("cuda" in available_providers(), reason="this ONNX Runtime is built for CUDA")
def test_cuda_without_the_package_for_it_is_refused() -> None:
    with pytest.raises(ProviderError, match="built for the CPU only; run: pip uninstall"):
        load_submodel(SUMS, "cuda")


@pytest.mark.skipif("cuda" not in available_providers(), reason="this ONNX Runtime is built for the CPU only")
def test_cuda_runs_or_is_refused_but_never_replaced() -> None:
    try:
        submodel = load_submodel(SUMS, "cuda")
    except ProviderError:
        assert load_submodel(SUMS, "auto").provider == "cpu"
        return
    assert submodel.provider == "cuda"
    np.testing.assert_array_equal(submodel.run([A, B])[0], np.array([11, 22], np.float32))


class StubSession:
    """What ONNX Runtime's GPU package gives on a machine that has, or lacks, the libraries of CUDA."""

    def __init__(self, libraries: bool, providers: list[Any]) -> None:
        asked = [item if isinstance(item, str) else item[0] for item in providers]
        self._providers = [name for name in asked if libraries or name != "CUDAExecutionProvider"]

    def get_providers(self) -> list[str]:
        return self._providers

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs


@pytest.fixture
def gpu_package(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for onnxruntime-gpu, which cannot run on a machine without a GPU. ``libraries``: CUDA loads."""
    package = SimpleNamespace(libraries=True, preloaded=0, options=[])

    def preload() -> None:
        package.preloaded += 1

    def session(_model: object, _options: object, providers: list[Any]) -> StubSession:
        package.options = [item[1] for item in providers if not isinstance(item, str)]
        return StubSession(package.libraries, providers)

    package.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    package.SessionOptions = lambda: SimpleNamespace(add_session_config_entry=lambda *_: None)
    package.preload_dlls = preload
    package.InferenceSession = session
    monkeypatch.setitem(sys.modules, "onnxruntime", package)
    return package


@pytest.mark.parametrize("provider", ["auto", "cuda"])
def test_cuda_is_used_where_it_works(gpu_package: SimpleNamespace, provider: str) -> None:
    submodel = load_submodel(b"", provider)
    assert submodel.provider == "cuda"
    assert submodel.providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert gpu_package.preloaded == 1
    assert gpu_package.options == [{"cudnn_conv_algo_search": "HEURISTIC"}]


def test_cpu_is_used_where_it_was_asked_for(gpu_package: SimpleNamespace) -> None:
    assert load_submodel(b"", "cpu").provider == "cpu"
    assert gpu_package.preloaded == 0


def test_a_silent_fallback_is_an_error_when_cuda_was_asked_for(gpu_package: SimpleNamespace) -> None:
    gpu_package.libraries = False
    with pytest.raises(ProviderError, match="would run on cpu, not cuda"):
        load_submodel(b"", "cuda")


def test_a_silent_fallback_is_told_when_it_was_allowed(
    gpu_package: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    gpu_package.libraries = False
    with caplog.at_level(logging.WARNING):
        assert load_submodel(b"", "auto").provider == "cpu"
    assert "would run on cpu, not cuda" in caplog.text


def test_a_missing_onnxruntime_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependency, match=r"pip install 'splitrtc\[cpu\]'"):
        load_submodel(SUMS)
