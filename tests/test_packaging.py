"""What a user gets: the wheel's content, the lock, the bundled clip, the list of licences."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from pipeline.clip import make_clip

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("rtc", "models", "signaling", "pipeline")
MODEL = "ssdlite_mbv2_coco_300"


def canonical(name: str) -> str:
    """The normalised form of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


# The lock


@pytest.fixture(scope="module")
def lock() -> str:
    return (ROOT / "requirements.lock").read_text(encoding="utf-8")


def test_lock_names_no_index_and_no_path(lock: str) -> None:
    assert re.findall(r"(?m)://|file:|^\s*-(?!-hash=sha256:)|\s@\s", lock) == []


def test_lock_holds_every_package_once_with_hashes(lock: str) -> None:
    entries = re.split(r"(?m)^(?=[a-z0-9])", lock)[1:]
    pins = [re.match(r"([a-z0-9-]+)==[^\s;]+", entry) for entry in entries]
    assert all(pins)
    assert all("--hash=sha256:" in entry for entry in entries)
    names = [pin[1] for pin in pins if pin]
    assert sorted(set(names)) == names


def test_lock_holds_what_the_project_asks_for(lock: str, project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["cpu"] + extras["dev"] + extras["eval"] + extras["fast"] + extras["plot"]
    names = {canonical(re.split(r"[^\w.-]", requirement)[0]) for requirement in wanted}
    assert names <= set(re.findall(r"(?m)^([a-z0-9-]+)==", lock))
    assert "onnxruntime-gpu" not in lock  # with onnxruntime beside it, CUDA is hidden
    assert "scikit-image" not in lock


def test_every_locked_package_is_in_the_list_of_licences(lock: str) -> None:
    listed = set(re.findall(r"[\w-]+", (ROOT / "docs" / "third-party.md").read_text(encoding="utf-8")))
    assert set(re.findall(r"(?m)^([a-z0-9-]+)==", lock)) - listed == set()


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The project's wheel, built from a copy (setuptools writes into the source tree) without any network."""
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "splitrtc.py", "splitrtc_errors.py"):
        shutil.copy(ROOT / name, copy)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(copy / "dist" / done.stdout.split()[-1])


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return message_from_bytes(wheel.read("splitrtc-0.1.0.dist-info/METADATA"))


def test_wheel_holds_every_module_and_no_test(wheel: zipfile.ZipFile) -> None:
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for name in SOURCES for path in (ROOT / name).rglob("*.py")}
    assert {name for name in files if name.endswith(".py")} == modules | {"splitrtc.py", "splitrtc_errors.py"}


def test_wheel_holds_the_model_the_clip_and_their_licences(wheel: zipfile.ZipFile) -> None:
    files = set(wheel.namelist())
    folder = f"models/zoo/{MODEL}"
    assert {f"{folder}/{name}" for name in (f"{MODEL}.onnx", "card.json", "LICENSE", "PROVENANCE.md")} <= files
    assert any(name.startswith(folder) and name.endswith(".calibration.json") for name in files)
    assert {"pipeline/clip/clip.mp4", "pipeline/clip/SOURCES.md"} <= files
    assert {f"{name}/py.typed" for name in SOURCES} <= files
    assert {f"splitrtc-0.1.0.dist-info/licenses/{name}" for name in ("LICENSE", "NOTICE")} <= files


def test_wheel_says_what_it_is(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("splitrtc", "0.1.0")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "splitrtc = pipeline.cli:main" in wheel.read("splitrtc-0.1.0.dist-info/entry_points.txt").decode()


def test_no_runtime_is_a_base_dependency(metadata: Message) -> None:
    base = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert base
    assert not any(
        line.startswith(("onnxruntime", "supervision", "matplotlib", "pycocotools", "scikit-image")) for line in base
    )


# The clip


def test_clip_is_small_and_as_described(clip_path: Path) -> None:
    assert clip_path.stat().st_size <= 1_000_000
    with av.open(str(clip_path)) as container:
        (stream,) = container.streams
        assert isinstance(stream, av.VideoStream)
        assert (stream.width, stream.height, stream.average_rate) == (640, 480, Fraction(30))
        times = [frame.time for frame in container.decode(stream)]
    assert times == pytest.approx([index / 30 for index in range(300)])


def test_camera_stays_on_the_canvas_and_comes_back() -> None:
    for index in range(make_clip.FRAMES):
        x, y, width = make_clip.view(index)
        height = width * make_clip.HEIGHT / make_clip.WIDTH
        assert width / 2 <= x <= 1200 - width / 2
        assert height / 2 <= y <= 960 - height / 2
    assert make_clip.view(make_clip.FRAMES) == pytest.approx(make_clip.view(0))


def test_every_photograph_has_a_source(clip_path: Path) -> None:
    script = Path(make_clip.__file__).read_text(encoding="utf-8")
    sources = clip_path.with_name("SOURCES.md").read_text(encoding="utf-8")
    photographs = re.findall(r"data\.(\w+)\(\)", script)
    assert len(photographs) == 4
    for name in photographs:
        assert re.search(rf"`{name}`.*(CC0|public domain)", sources)


# The commands


def test_ci_runs_the_commands_of_the_readme() -> None:
    ci = ROOT / ".ci" / "run"
    assert ci.stat().st_mode & 0o111
    lines = ci.read_text(encoding="utf-8").splitlines()
    assert lines[-2:] == ["make lint", "make test"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in readme
    assert "make test" in readme


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_command() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    listed = set(re.findall(r"(?m)^make (\w+)", done.stdout))
    assert {"setup", "demo", "test", "lint", "bench", "soak", "fuzz", "lock", "help"} <= listed
