"""What the documentation says is true: its programs run, its flags, exit codes and links exist."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import splitrtc_errors
from pipeline.cli import cli
from pipeline.sources import VideoFile
from splitrtc_errors import SplitRtcError

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
EDGE = "ws://127.0.0.1:8787"
"""The edge that the programs of the documentation connect to."""
IMAGES = 6

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages."""
    fences = re.findall(r"(?ms)^ *```(\w*)\n(.*?)^ *```$", path.read_text(encoding="utf-8"))
    return [text for language, text in fences if language in languages]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Links


@page
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists() or file.suffix == ".png", target  # pictures are made by the demo
        assert not anchor or anchor in anchors(file), target


# The command line


def flags(verb: str) -> set[str]:
    """The flags of a command and of those below it."""
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    commands = [command]
    if isinstance(command, click.Group):
        context = click.Context(command)
        commands += [found for name in command.list_commands(context) if (found := command.get_command(context, name))]
    options = [parameter for one in commands for parameter in one.params]
    return {name for option in options for name in (*option.opts, *option.secondary_opts)}


FLAGS = {verb: flags(verb) for verb in cli.list_commands(click.Context(cli))}


@page
def test_commands_and_flags_exist(path: Path) -> None:
    for block in blocks(path, "", "sh"):
        lines = re.sub(r"\\\n", " ", block).splitlines()
        for verb, rest in (match.groups() for line in lines if (match := re.search(r"splitrtc (\w+)(.*)", line))):
            assert verb in FLAGS, verb
            assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", rest.split("#")[0])) - FLAGS[verb] == set(), block


def test_every_flag_named_in_prose_exists() -> None:
    known = {"--help"}.union(*FLAGS.values())
    for path in (ROOT / "README.md", ROOT / "docs" / "troubleshooting.md"):
        named = set(re.findall(r"`(--[a-z][a-z-]*)", path.read_text(encoding="utf-8")))
        assert named - known == set()


def test_every_error_is_explained_with_its_exit_code() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = {name: int(code) for code, name in re.findall(r"(?m)^\| (\d+) \| `(\w+)` \|", text)}
    tree = [getattr(splitrtc_errors, name) for name in splitrtc_errors.__all__]
    assert rows == {kind.__name__: kind.exit_code for kind in tree if issubclass(kind, SplitRtcError)}


# The programs


@pytest.fixture(scope="module")
def edge_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    ready = tmp_path_factory.mktemp("edge") / "ready.json"
    command = [sys.executable, "-m", "splitrtc", "edge", "--listen", "127.0.0.1:0", "--ready-file", str(ready)]
    edge = subprocess.Popen([*command, "--log-level", "warning"], cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        while not ready.exists():
            with pytest.raises(subprocess.TimeoutExpired):  # it must not end
                edge.wait(0.05)
        yield json.loads(ready.read_text(encoding="utf-8"))["url"]
    finally:
        edge.send_signal(signal.SIGTERM)
        assert edge.wait(20) == 0


@pytest.fixture(scope="module")
def images(clip_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip's first pictures as a folder: the programs need not play all of it."""
    import cv2

    folder = tmp_path_factory.mktemp("images")
    clip = VideoFile(clip_path)
    clip.open()
    for index in range(IMAGES):
        picture = clip.read()
        assert picture is not None
        assert cv2.imwrite(str(folder / f"{index}.png"), picture.image)
    clip.close()
    return folder


PROGRAMS = [program for path in PAGES for program in blocks(path, "python")]


@pytest.mark.e2e
@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_program_runs(program: str, edge_url: str, images: Path, tmp_path: Path) -> None:
    if "to_supervision" in program and importlib.util.find_spec("supervision") is None:
        pytest.skip("supervision is not installed")
    program = program.replace(EDGE, edge_url).replace('"clip"', repr(str(images)))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    # On a busy machine the edge may fall silent for a moment, and whoever runs the program is told.
    told = [line for line in done.stderr.splitlines() if not line.startswith("waiting for the edge: no result for")]
    assert (done.returncode, told) == (0, [])
    assert done.stdout.strip()
