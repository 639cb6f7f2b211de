from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx.parser import parse_model

from benchmarks.architectures import ARCHITECTURES
from models.graph import Model, Part, at, batched, find_inputs, of_nodes, split
from models.graph.running import Runner
from models.zoo import Zoo
from splitrtc_errors import CutError


def whole(body: str, opset: int = 17) -> Part:
    found = Model(parse_model(f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]> g {body}'))
    return split(found, [of_nodes(found.graph, [])])[1]


IMAGE = "(float[1,4,6,6] x)"


@pytest.mark.parametrize(
    "body",
    [
        f"{IMAGE} => (float[1,144] y) <int64[2] s = {{1, 144}}> {{ y = Reshape(x, s) }}",
        f"""{IMAGE} => (float[1,36,4] y) <int64[3] s = {{1, -1, 4}}>
        {{ t = Transpose<perm=[0,2,3,1]>(x) y = Reshape(t, s) }}""",
        # The batch goes into the rows of a matrix and comes out again.
        f"""{IMAGE} => (float[1,36,3] y) <int64[2] s = {{36, 4}}, int64[3] r = {{1, 36, 3}},
            float[4,3] w = {{1,2,3,4,5,6,7,8,9,10,11,12}}>
        {{ t = Transpose<perm=[0,2,3,1]>(x) m = Reshape(t, s) n = Gemm(m, w) y = Reshape(n, r) }}""",
        # A constant for each row.
        """(float[1,3,2] x) => (float[1,3,2] y) <int64[2] s = {3, 2}, int64[1] n = {0}, float[3,1] w = {1,2,3}>
        { m = Reshape(x, s) p = Mul(m, w) y = Unsqueeze(p, n) }""",
        # Attention over tokens, tokens first.
        """(float[1,5,4] x) => (float[1,5,4] y) <int64[3] s = {5,2,2}, int64[3] r = {5,1,4}, int64[2] q = {5,4},
            float[4,4] w = {1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6}>
        { t = Transpose<perm=[1,0,2]>(x) h = Reshape(t, s) a = Transpose<perm=[1,0,2]>(h) b = Transpose<perm=[1,2,0]>(h)
          m = MatMul(a, b) f = Softmax(m) n = MatMul(f, a) o = Transpose<perm=[1,0,2]>(n) p = Reshape(o, q)
          g = Gemm(p, w) v = Reshape(g, r) y = Transpose<perm=[1,0,2]>(v) }""",
        f"{IMAGE} => (float[1,5,6,6] y) {{ z = ReduceMean<axes=[1]>(x) y = Concat<axis=1>(x, z) }}",
        """(float[1,2] x) => (float[1,4] y) <float[1,2] k = {7, 8}> { y = Concat<axis=1>(x, k) }""",
        """(float[1,4] x) => (float[1,2] y) <int64[2] s = {0, 1}, int64[2] e = {1, 3}> { y = Slice(x, s, e) }""",
        f"""{IMAGE} => (float[1,4,12,12] y) <int64[4] s = {{1, 4, 12, 12}}>
        {{ y = Resize<mode="nearest">(x, , , s) }}""",
        f"""{IMAGE} => (float[1,4,12,12] y) <float[4] s = {{1, 1, 2, 2}}> {{ y = Resize<mode="nearest">(x, , s) }}""",
        """(float[1,1,4] x) => (float[1,3,4] y) <int64[3] s = {1,3,4}> { y = Expand(x, s) }""",
        """(float[1,1,4] x) => (float[1,3,4] y) <int64[3] s = {1,3,1}> { y = Tile(x, s) }""",
        """(float[1,4] x) => (float[1,6] y) <int64[4] p = {0,1,0,1}> { y = Pad(x, p) }""",
        """(float[1,8] x) => (float[1,3] y, int64[1,3] i) <int64[1] k = {3}> { y, i = TopK(x, k) }""",
        """(float[1,8] x) => (float[1,3] y) <int64[1,3] i = {3, 1, 2}> { y = GatherElements<axis=1>(x, i) }""",
        """(float[1,8] x) => (float[1,2] y) <int64[2] i = {3, 1}> { y = Gather<axis=1>(x, i) }""",
        """(float[1,8] x) => (int64[1] y) { y = ArgMax<axis=1, keepdims=0>(x) }""",
        """(float[1,8] x) => (float[1,8] y) { a, b = Split<axis=1>(x) y = Concat<axis=1>(b, a) }""",
        """(float[1,4] x) => (float[1,4] y) <int64 i = {1}>
        { s = Shape(x) n = Gather(s, i) c = Cast<to=1>(n) y = Mul(x, c) }""",
        """(float[1,3,4] x) => (float[1,3] y) <float[4] w = {1, 2, 3, 4}> { y = MatMul(x, w) }""",
        """(float[1,4] x) => (float[1,4] y) { s = Shape(x) a = Relu(x) y = Reshape(a, s) }""",
    ],
)
def test_each_sample_gets_what_it_gets_alone(body: str) -> None:
    part = whole(body)
    many = batched(part)
    assert all(kind.shape is not None and kind.shape[0] == "batch" for kind in (*many.inputs, *many.outputs))
    one, runner = Runner(part), Runner(many)
    samples = [find_inputs(Model(part.proto), seed=seed)["x"] for seed in range(3)]
    expected = [one.run({"x": sample})["y"] for sample in samples]
    np.testing.assert_allclose(runner.run({"x": np.concatenate(samples)})["y"], np.concatenate(expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("(float[1,4] x) => (float[1] y) { y = ReduceSum<keepdims=0>(x) }", "ReduceSum#0 .*: it works along all dim"),
        ("(float[1,4] x) => (float[1,4] y) { y = Softmax<axis=0>(x) }", "works along the batch's dimension"),
        ("(float[1,4] x) => (float[2,4] y) { y = Concat<axis=0>(x, x) }", "joins tensors in the batch's dimension"),
        ("(float[1,4] x) => (float[4,4] y) { t = Transpose(x) y = MatMul(t, x) }", "MatMul"),
        ("(float[1,4] x) => (float[4,1] y) { y = Transpose(x) }", "not in the first dimension of output y"),
        ("(float[1,4] x) => (float[4] y) <int64[1] s = {4}> { y = Reshape(x, s) }", "not in the first dimension"),
        ("(float[1,4] x) => (int64[2,k] y) { y = NonZero(x) }", "nothing is known of this operator"),
        ("(float[2,4] x) => (float[2,4] y) { y = Relu(x) }", "does not begin with a dimension of 1"),
        ("(float[1,n] x) => (float[1,n] y) { y = Relu(x) }", "is not fixed"),
        ("(float[1,4] x) => (float[3,4] y) <int64[2] s = {3, 1}> { y = Tile(x, s) }", "repeats the batch's dimension"),
        (
            "(float[1,4] x) => (float[3,4] y) <int64[2] s = {3, 4}> { y = Expand(x, s) }",
            "repeats the batch's dimension",
        ),
        ("(float[1,4] x) => (float[3,4] y) <int64[4] p = {1,0,1,0}> { y = Pad(x, p) }", "lengthen the batch's dim"),
        ("(float[1,4] x) => (float[3,4] y) <float[3,4] w = {1,2,3,4,5,6,7,8,9,0,1,2}> { y = Add(x, w) }", "Add"),
        ("(float[1,4] x) => (float[4] y) <int64 i = {0}> { y = Gather<axis=0>(x, i) }", "takes pieces of the batch"),
        (
            "(float[1,4] x) => (float[0,4] y) <int64[1] s = {1}, int64[1] e = {2}> { y = Slice(x, s, e) }",
            "takes a piece",
        ),
        ("(float[1,4] x) => (float[1,4] y) { r = RandomNormal<shape=[1,4]>() y = Add(x, r) }", "draws by chance"),
        ("(float[1,4] x) => (float[1] z, float[1,4] y) { z = Constant<value_floats=[1.0]>() y = Relu(x) }", "output z"),
    ],
)
def test_what_is_not_provably_the_same_is_refused_with_the_reason(body: str, reason: str) -> None:
    with pytest.raises(CutError, match=f"the batch cannot be freed: .*{reason}"):
        batched(whole(body))


def test_the_check_finds_a_wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.graph.batching.RULES", {"CumSum": lambda _: 0})
    with pytest.raises(CutError, match="y for 2 samples differs from single runs by"):
        batched(whole("(float[1,4] x) => (float[1,4] y) <int64 a = {0}> { y = CumSum(x, a) }"))


def test_the_bundled_model_s_tail() -> None:
    found = Model.load(Zoo().get().verified_path())
    _, tail = split(found, [at(found.graph, ["Conv__979:0"])])
    many = batched(tail)
    assert [kind.shape for kind in many.outputs] == [("batch", 1917, 90), ("batch", 1917, 1, 4)]


@pytest.mark.parametrize("name", ["resnet", "feature_pyramid", "quantised", "unet"])
def test_architectures(name: str) -> None:
    found = Model(ARCHITECTURES[name]())
    assert batched(split(found, [of_nodes(found.graph, [])])[1]).inputs[0].shape[0] == "batch"  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("yolox_nano", "1204"),
        ("deimv2_atto", "/model/encoder/input_proj.0/conv/Conv_output_0"),
        ("mobilenet_v2_quant", "534"),
    ],
)
def test_published_models(shared_dir: Path, name: str, tensor: str) -> None:
    found = Model.load(shared_dir / "models" / f"{name}.onnx")
    if name == "deimv2_atto":
        found = found.fixed({"images": (1, 3, 320, 320), "orig_target_sizes": (1, 2)})
    batched(split(found, [at(found.graph, [tensor])])[1])
