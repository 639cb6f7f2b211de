from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import signaling

ROOT = Path(signaling.__file__).parent.parent
HEAVY = ("aiohttp", "aiortc", "aioice", "av", "cv2", "numpy", "onnx", "onnxruntime")


def loaded_after(code: str) -> set[str]:
    """Run code in a new interpreter; which of the heavy modules has it loaded?"""
    script = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import signaling") == set()


def test_the_pure_names_load_nothing_heavy() -> None:
    shells = ("signaling.client", "signaling.server", "signaling.session")
    pure = [name for name in signaling.__all__ if signaling._MODULE_OF[name] not in shells]
    assert loaded_after(f"import signaling\nfor name in {pure!r}: getattr(signaling, name)") == set()


def test_the_whole_package_loads_neither_a_transport_nor_a_runtime() -> None:
    assert loaded_after("from signaling import *") <= {"aiohttp"}


@pytest.mark.parametrize("name", signaling.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(signaling, name)
    assert getattr(value, "__name__", name) == name
    assert name in dir(signaling)


def test_public_names_are_listed_once_and_have_one_home() -> None:
    assert len(signaling.__all__) == len(set(signaling.__all__))
    assert set(signaling.__all__) == set(signaling._MODULE_OF)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'signaling' has no attribute 'Nothing'"):
        signaling.Nothing  # noqa: B018
