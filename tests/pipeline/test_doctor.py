from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import models.zoo
from pipeline import doctor
from pipeline.doctor import Finding, examine
from splitrtc_errors import ModelFileError

SUBJECTS = ["Python", "runtime", "model files", "split", "edge port", "UDP on loopback", "camera", "display"]

Look = Callable[..., Finding]


@pytest.fixture
def look() -> Look:
    """A function that looks at one subject alone, the way `examine` does."""

    def find(subject: str, **arguments: Any) -> Finding:
        found = {
            finding.subject: finding for finding in examine(**{"camera": "testsrc", "provider": "cpu", **arguments})
        }
        assert list(found) == SUBJECTS  # whatever is wrong, the rest is looked at
        return found[subject]

    return find


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_a_sound_machine_has_nothing_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":7")
    findings = list(examine("testsrc", "cpu", f"127.0.0.1:{free_port()}"))
    assert [finding.subject for finding in findings] == SUBJECTS
    assert [finding.verdict for finding in findings] == ["ok"] * len(SUBJECTS)
    assert all(finding.detail and not finding.advice for finding in findings)
    details = {finding.subject: finding.detail for finding in findings}
    assert "on cpu: head" in details["split"]
    assert details["camera"] == "testsrc: 640x480"
    assert details["display"] == ":7"


def test_an_old_python_is_told(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_PYTHON", (99, 0))
    assert look("Python").verdict == "wrong"
    assert "99.0 or newer" in look("Python").advice


def test_a_missing_runtime_is_told_with_what_to_install(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    finding = look("runtime")
    assert finding.verdict == "wrong"
    assert "pip install 'splitrtc[cpu]'" in finding.detail


def test_cuda_asked_of_a_runtime_for_cpus_is_wrong(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.runtime.available_providers", lambda: ["cpu"])
    assert "splitrtc[gpu]" in look("runtime", provider="cuda").advice
    finding = look("split", provider="cuda")
    assert finding.verdict == "wrong"
    assert "splitrtc[gpu]" in finding.detail


def test_a_slow_machine_is_advised(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    finding = look("split")
    assert (finding.verdict, finding.advice) == ("note", "too slow for 30 frames per second here: use --fps 10")
    assert "head 200.0 ms" in finding.detail


@pytest.fixture
def zoo_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundled zoo that a test may spoil: the folder of its model."""
    shutil.copytree(models.zoo.BUNDLED, tmp_path / "zoo", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(models.zoo, "BUNDLED", tmp_path / "zoo")
    return tmp_path / "zoo" / "ssdlite_mbv2_coco_300"


def test_a_damaged_model_file_is_told(look: Look, zoo_copy: Path) -> None:
    (zoo_copy / "ssdlite_mbv2_coco_300.onnx").write_bytes(b"half a model")
    finding = look("model files")
    assert (finding.verdict, finding.advice) == ("wrong", "install splitrtc again")
    assert "is not the file of model ssdlite_mbv2_coco_300" in finding.detail


@pytest.mark.parametrize("name", ["card.json", "ssdlite_mbv2_coco_300.onnx"])
def test_a_missing_model_file_is_told(look: Look, zoo_copy: Path, name: str) -> None:
    (zoo_copy / name).unlink()
    if name == "card.json":
        (zoo_copy / name).write_text("{}")
    finding = look("model files")
    assert (finding.verdict, finding.advice) == ("wrong", "install splitrtc again")
    assert ("card.json" if name == "card.json" else "the file of model ssdlite_mbv2_coco_300 is not") in finding.detail


def test_a_port_that_is_taken_is_told(look: Look, taken_port: int) -> None:
    finding = look("edge port", listen=f"127.0.0.1:{taken_port}")
    assert finding.verdict == "note"  # splitrtc works all the same
    assert f"127.0.0.1:{taken_port}: Address already in use" in finding.detail
    assert "another edge may be running" in finding.advice


@pytest.mark.parametrize("listen", ["192.0.2.1:8787", "no-such-host.invalid:8787"])
def test_an_address_of_another_machine_is_told(look: Look, listen: str) -> None:
    finding = look("edge port", listen=listen)
    assert finding.verdict == "note"
    assert "an address of this machine" in finding.advice


def test_a_machine_without_ipv6_is_told(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.AF_INET6", 9999)  # the kernel knows no such family
    finding = look("edge port", listen="[::1]:0")
    assert (finding.verdict, bool(finding.advice)) == ("note", True)


def test_an_address_that_is_none_is_wrong(look: Look) -> None:
    finding = look("edge port", listen="nonsense")
    assert finding.verdict == "wrong"
    assert "expected HOST:PORT" in finding.detail


def test_a_firewall_on_loopback_is_told(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(socket.socket):
        def recv(self, *_: int) -> bytes:
            raise TimeoutError("timed out")

    monkeypatch.setattr("socket.socket", Deaf)
    finding = look("UDP on loopback")
    assert finding.verdict == "wrong"
    assert "firewall" in finding.advice


@pytest.mark.parametrize("camera", ["9999", "/dev/no-such-camera", "gopher://camera"])
def test_a_missing_camera_is_no_more_than_a_note(look: Look, camera: str) -> None:
    finding = look("camera", camera=camera)
    assert finding.verdict == "note"
    assert "video devices: " in finding.detail
    assert "--source" in finding.advice


def test_a_camera_without_a_picture_is_told(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.stills.TestPattern.read", lambda _: None)
    assert "no picture" in look("camera").detail


def test_no_display_is_no_more_than_a_note(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert look("display").verdict == "note"
    assert "--sink out.mp4" in look("display").advice
    monkeypatch.setattr("sys.platform", "darwin")
    assert look("display").detail == "darwin"
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert look("display") == Finding("display", "ok", "wayland-0")


@pytest.mark.parametrize("error", [RuntimeError("what nobody thought of"), OSError(5, "Input/output error")])
def test_what_nobody_thought_of_stops_nothing(look: Look, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> Finding:
        raise error

    monkeypatch.setattr(doctor, "_udp", fail)
    finding = look("UDP on loopback")
    assert (finding.verdict, finding.detail) == ("wrong", repr(error))
    assert "report" in finding.advice


def test_an_error_of_our_own_speaks_for_itself(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> Finding:
        raise ModelFileError("what was expected, what came")

    monkeypatch.setattr(doctor, "_split", fail)
    assert look("split") == Finding("split", "wrong", "what was expected, what came")
