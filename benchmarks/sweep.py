"""Every node of every model as the cut, verified bit for bit: the table in docs/splitting.md.

The models are the zoo's, those in a folder (``../shared/models``, where that is), the architectures that the tests
generate, and the node and model tests of the ONNX project that have two or more nodes, on their own inputs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import onnx
from onnx import numpy_helper
from rich.console import Console
from rich.progress import Progress

from benchmarks.architectures import ARCHITECTURES
from models import Zoo
from models.graph import Model, Sweep, sweep
from splitrtc_errors import ModelError

if TYPE_CHECKING:
    from models.graph.running import Values

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "models"
PAGE = ROOT / "docs" / "splitting.md"
BEGIN, END = "<!-- sweep: begin -->", "<!-- sweep: end -->"


KINDS = ("tensor_type", "sequence_type", "optional_type")
"""Of inputs that are read."""


REASONS = {
    "NOT_IMPLEMENTED": "the runtime has no kernel for an operator and its types",
    "is not a registered function/op": "the runtime does not have an operator",
    "two runs of the whole model": "the whole model gives something else each time, by chance",
    "cannot load the model": "the runtime does not know this version of ONNX or of an opset",
    "the largest difference": "the parts differ from the whole",
}
"""What the exceptions have in common, by a part of their message."""


class Case(NamedTuple):
    """One of the ONNX project's tests, and inputs for it; None where they are not of the kinds that are read."""

    name: str
    model: onnx.ModelProto
    folder: Path | None
    inputs: Values | None


def backend_cases(operators: Sequence[str] | None = None) -> Iterator[Case]:
    """The ONNX project's tests that are inside its package and have two nodes or more: node and model tests.

    To make the node tests takes a while: ``operators`` are the modules of those that are wanted, None all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they compute on purpose with infinity and the like
        if operators is None:
            from onnx.backend.test.loader import load_model_tests

            load_model_tests(kind="node")
        for operator in operators or ():
            importlib.import_module(f"onnx.backend.test.case.node.{operator}")
        from onnx.backend.test.case.node import _NodeTestCases as tests
    for test in list(tests):
        if test.model is not None and test.data_sets is not None and len(test.model.graph.node) >= 2:
            names = [value.name for value in test.model.graph.input]
            yield Case(test.name, test.model, None, dict(zip(names, test.data_sets[0][0], strict=False)))
    folder = Path(next(iter(onnx.__path__)), "backend", "test", "data")
    for path in sorted(folder.glob("*/*/model.onnx")):
        proto = onnx.load(path, load_external_data=False)
        if len(proto.graph.node) >= 2:
            yield Case(path.parent.name, proto, path.parent, _inputs(proto, path.parent / "test_data_set_0"))


def _inputs(proto: onnx.ModelProto, folder: Path) -> Values | None:
    values: dict[str, Any] = {}
    for i, value in enumerate(proto.graph.input):
        file = folder / f"input_{i}.pb"
        if not file.is_file() or value.type.WhichOneof("value") not in KINDS:
            return None
        data = file.read_bytes()
        kind = value.type
        optional = kind.WhichOneof("value") == "optional_type"
        kind = kind.optional_type.elem_type if optional else kind
        if optional:
            values[value.name] = numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
        elif kind.WhichOneof("value") == "sequence_type":
            values[value.name] = numpy_helper.to_list(onnx.SequenceProto.FromString(data))
        else:
            values[value.name] = numpy_helper.to_array(onnx.TensorProto.FromString(data))
    return values


def named_models(folder: Path) -> Iterator[tuple[str, Model]]:
    """The zoo's models, those in a folder, and the generated ones."""
    zoo = Zoo()
    found = {name: zoo.get(name).path for name in zoo.names()}
    found |= {path.stem: path for path in sorted(folder.glob("*.onnx")) if path.stem not in found}
    for name, path in found.items():
        yield name, Model.load(path)
    for name, make in ARCHITECTURES.items():
        yield f"{name} (generated)", Model(make())


def main() -> None:
    """Sweep, and print the table or write it into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--models", type=Path, default=SHARED, help="folder of further models (%(default)s)")
    parser.add_argument("--only", default="", help="only models whose name contains this")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="cuts checked at once (%(default)s)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/splitting.md")
    chosen = parser.parse_args()
    rows = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name, model in named_models(chosen.models):
            if chosen.only in name:
                task = progress.add_task(name, total=len(model.graph.node_names))
                result = sweep(model, workers=chosen.workers, progress=partial(progress.advance, task))
                rows.append((name, result))
                print(json.dumps({"model": name, **result.to_json()}), flush=True)
        if chosen.only in "onnx backend tests":
            rows.append(("ONNX's own tests", _backend(progress)))
            print(json.dumps({"model": rows[-1][0], **rows[-1][1].to_json()}), flush=True)
    table = _table(rows)
    if chosen.write:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table}{END}{rest.partition(END)[2]}", encoding="utf-8")
    Console(stderr=True).print(table, markup=False)


def _backend(progress: Progress) -> Sweep:
    """All of ONNX's tests as one row: a node is named TEST/NODE; a test that the runtime does not run is one line."""
    cases = list(backend_cases())
    task = progress.add_task("ONNX's own tests", total=len(cases))
    results = []
    exceptions = []
    for case in cases:
        try:
            result = sweep(Model(case.model, case.folder), case.inputs)
        except ModelError as error:
            exceptions.append((case.name, f"the runtime does not run the whole model: {error}"))
        else:
            results.append(result)
            exceptions += ((f"{case.name}/{node}", reason) for node, reason in result.exceptions)
            exceptions += ((f"{case.name}/{node}", reason) for node, reason in result.different)
        progress.advance(task)
    return Sweep(
        nodes=sum(result.nodes for result in results),
        cuts=sum(result.cuts for result in results),
        distinct=sum(result.distinct for result in results),
        verified=sum(result.verified for result in results),
        exceptions=tuple(exceptions),
        different=(),
        inputs={},
    )


def _table(rows: list[tuple[str, Sweep]]) -> str:
    lines = [
        "| model | nodes | cuts that run | different crossing sets | verified bit for bit |",
        "|---|---|---|---|---|",
    ]
    lines += (f"| {name} | {s.nodes} | {s.cuts} | {s.distinct} | {s.verified} |" for name, s in rows)
    by_reason: dict[str, list[str]] = {}
    for name, result in rows:
        for node, why in (*result.exceptions, *result.different):
            by_reason.setdefault(f"{name}: {_short(why)}", []).append(f"`{node}`")
    lines += ["", f"Exceptions: {sum(map(len, by_reason.values())) or 'none'}.", ""]
    lines += (f"- {why} ({len(nodes)}): {', '.join(nodes)}" for why, nodes in sorted(by_reason.items()))
    return "\n".join(lines).rstrip() + "\n"


def _short(reason: str) -> str:
    """A reason without what differs from test to test: places in the runtime's source, numbers, names of nodes."""
    for known, text in REASONS.items():
        if known in reason:
            return text
    return reason[:200]


if __name__ == "__main__":
    main()
