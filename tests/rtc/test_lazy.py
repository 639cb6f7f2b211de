from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rtc

ROOT = Path(rtc.__file__).parent.parent

# Everything here but the peer works on values; what is heavy comes with the peer.
HEAVY = ("aiortc", "aioice", "av", "cv2", "numpy", "onnxruntime")


def loaded_after(code: str) -> set[str]:
    """Run code in a new interpreter; which of the heavy modules has it loaded?"""
    script = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_loads_no_transport() -> None:
    assert loaded_after("import rtc") == set()


def test_the_pure_names_load_no_transport() -> None:
    pure = [name for name in rtc.__all__ if rtc._HOME[name] != "peer"]
    assert loaded_after(f"import rtc\nfor name in {pure!r}: getattr(rtc, name)") == set()


def test_the_peer_loads_the_transport() -> None:
    assert "aiortc" in loaded_after("from rtc import Peer")


@pytest.mark.parametrize("name", rtc.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(rtc, name)
    assert getattr(value, "__name__", name) == name
    assert name in dir(rtc)


def test_public_names_are_listed_once_and_have_one_home() -> None:
    assert len(rtc.__all__) == len(set(rtc.__all__))
    assert set(rtc.__all__) == set(rtc._HOME)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rtc' has no attribute 'Pear'"):
        rtc.Pear  # noqa: B018
