"""The layers: an import only ever points down, and heavy libraries stay where they belong.

::

    splitrtc
    pipeline
    signaling
    models    rtc
    splitrtc_errors
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

BELOW = {
    "splitrtc_errors": set[str](),
    "models": {"splitrtc_errors"},
    "rtc": {"splitrtc_errors"},
    "signaling": {"models", "rtc", "splitrtc_errors"},
    "pipeline": {"signaling", "models", "rtc", "splitrtc_errors"},
    "splitrtc": {"pipeline", "signaling", "models", "rtc", "splitrtc_errors"},
}
"""What each layer may import besides itself."""

RESERVED = {
    "aiortc": ("rtc.peer", "rtc.transport", "rtc.sctp", "rtc.sctp_sending", "rtc.video"),
    "aioice": ("rtc.transport",),
    "onnxruntime": ("models",),
    "onnx": ("models",),
    "websockets": (),  # aiohttp serves and connects
}
"""Libraries that only some modules (or packages) may load. An import for type checkers alone loads nothing."""


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the project, by name."""
    for layer in BELOW:
        if (ROOT / f"{layer}.py").exists():
            yield layer, ROOT / f"{layer}.py"
        for path in sorted((ROOT / layer).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


def imports(tree: ast.AST, module: str) -> Iterator[tuple[str, bool]]:
    """Top-level names that ``module`` imports, anywhere in it, and whether the import happens when it runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in node.body:
                yield from ((name, False) for name, _ in imports(ast.Module([statement], []), module))
            for statement in node.orelse:
                yield from imports(ast.Module([statement], []), module)
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], True) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0] if node.level == 0 else module.partition(".")[0], True
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("import_module", "importlib.import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value).partition(".")[0] or module.partition(".")[0], True
        yield from imports(node, module)


def violations(module: str, source: str) -> list[str]:
    """What ``module`` imports and must not."""
    layer = module.partition(".")[0]
    found = []
    for name, runs in imports(ast.parse(source), module):
        if name in BELOW and name != layer and name not in BELOW[layer]:
            found.append(f"{module} imports {name}")
        allowed = RESERVED.get(name)
        if (
            runs
            and allowed is not None
            and not any(module == home or module.startswith(f"{home}.") for home in allowed)
        ):
            found.append(f"{module} imports {name}")
    return found


def test_there_are_modules_in_every_layer() -> None:
    assert {name.partition(".")[0] for name, _ in modules()} == set(BELOW)


@pytest.mark.parametrize(("module", "path"), [pytest.param(*item, id=item[0]) for item in modules()])
def test_imports_point_down(module: str, path: Path) -> None:
    assert violations(module, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("models.card", "import rtc.units"),
        ("rtc.units", "from models import card"),
        ("signaling.swap", "def f():\n    from pipeline.ue import Device"),
        ("signaling.swap", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pipeline"),
        ("pipeline.cli.demo", "import splitrtc"),
        ("splitrtc_errors", "import rtc"),
        ("rtc.sdp", "import aiortc"),
        ("rtc.peers", "import aiortc"),
        ("rtc.sdp", "if TYPE_CHECKING:\n    pass\nelse:\n    import aiortc"),
        ("signaling.server", "try:\n    from onnxruntime import InferenceSession\nexcept ImportError:\n    pass"),
        ("pipeline.ue", "import importlib\nimportlib.import_module('onnxruntime.capi')"),
    ],
)
def test_an_import_that_points_up_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rtc.peer", "import aiortc.rtcsctptransport"),
        ("rtc.sender", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from aiortc import RTCDataChannel"),
        ("rtc.units", "from . import channels\nfrom .sdp import ChannelMap"),
        ("models.runtime", "def load():\n    import onnxruntime"),
        ("pipeline.ue", "import signaling, models, rtc"),
    ],
)
def test_an_import_that_points_down_is_not(module: str, source: str) -> None:
    assert violations(module, source) == []


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        # Not only the package: everything in it.
        (
            "import pkgutil, signaling\n"
            "for found in pkgutil.walk_packages(signaling.__path__, 'signaling.'): __import__(found.name)\n"
            "for name in signaling.__all__: getattr(signaling, name)",
            {"aiortc", "aioice", "onnxruntime", "onnx", "cv2", "av"},
        ),
        ("import rtc", {"aiortc", "aioice", "av"}),
        ("import models", {"onnxruntime", "onnx", "cv2"}),
        ("import splitrtc", {"aiortc", "onnxruntime", "onnx", "cv2", "av", "matplotlib"}),
    ],
    ids=["signaling", "rtc", "models", "splitrtc"],
)
def test_importing_a_package_loads_no_heavy_library(statement: str, unwanted: set[str]) -> None:
    code = f"import sys\n{statement}\nprint(*sorted({unwanted!r} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("package", ["splitrtc", "signaling", "models", "rtc", "splitrtc_errors"])
def test_public_names_exist(package: str) -> None:
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError):
        _ = module.no_such_name
