from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import splitrtc
from pipeline.edge import Edge
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession
from splitrtc_errors import BadArgument

ROOT = Path(__file__).resolve().parent.parent


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_every_public_name_is_there_and_comes_from_where_it_lives() -> None:
    assert sorted(splitrtc.__all__) == splitrtc.__all__
    assert set(splitrtc.__all__) == {*splitrtc._MODULE_OF, "connect", "serve"}
    for name, module in splitrtc._MODULE_OF.items():
        value = getattr(splitrtc, name)
        assert value is (sys.modules[module] if name == "errors" else getattr(sys.modules[module], name))
    assert set(splitrtc.__all__) <= set(dir(splitrtc))


def test_a_type_checker_sees_the_same_names() -> None:
    """What is imported for type checkers alone must be what `__getattr__` gives."""
    source = inspect.getsource(splitrtc)
    block = source.partition("if TYPE_CHECKING:\n")[2].partition("\n\n")[0]
    seen = {
        name.strip(): line.split()[1]
        for line in block.splitlines()
        for name in line.partition(" import ")[2].split(",")
    }
    options = {"EdgeOptions", "UeOptions"}
    given = {name: home for name, home in splitrtc._MODULE_OF.items() if home != "splitrtc_errors"}
    assert {name: home for name, home in seen.items() if name not in options and home != "splitrtc_errors"} == given


def test_a_name_that_is_not_there_is_missed() -> None:
    with pytest.raises(AttributeError, match="splitrtc.*no_such_name"):
        _ = splitrtc.no_such_name


def test_names_are_loaded_when_they_are_used() -> None:
    done = python(
        "-c",
        "import sys, splitrtc\n"
        "before = {'pipeline', 'models', 'rtc', 'signaling', 'numpy'} & set(sys.modules)\n"
        "splitrtc.Frame\n"
        "print(before, 'pipeline.frames' in sys.modules, 'pipeline.ue' in sys.modules)",
    )
    assert done.stdout == "set() True False\n", done.stderr


@pytest.mark.parametrize(
    ("function", "settings", "made"), [(splitrtc.connect, UeSettings, UeSession), (splitrtc.serve, EdgeSettings, Edge)]
)
def test_keyword_arguments_are_the_settings(function: Any, settings: Any, made: Any) -> None:
    from pipeline.settings import EdgeOptions, UeOptions

    options = UeOptions if function is splitrtc.connect else EdgeOptions
    positional, *named = fields(settings)
    assert set(get_type_hints(options)) == {field.name for field in named}
    parameters = list(inspect.signature(function).parameters.values())
    assert [parameter.kind for parameter in parameters] == [
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_KEYWORD,
    ]
    assert parameters[0].name == positional.name
    if parameters[0].default is not inspect.Parameter.empty:
        assert parameters[0].default == positional.default
    assert options.__name__ in parameters[1].annotation


async def test_connect_and_serve_take_what_the_settings_take() -> None:
    session = splitrtc.connect("gpu-box:8787", profile="q4-zstd", fps=10)
    assert isinstance(session, UeSession)
    assert session.settings == UeSettings("gpu-box:8787", profile="q4-zstd", fps=10)
    edge = splitrtc.serve("127.0.0.1:0", max_sessions=3)
    assert isinstance(edge, Edge)
    assert edge.settings == EdgeSettings("127.0.0.1:0", max_sessions=3)
    assert splitrtc.serve().settings == EdgeSettings()
    await session.close()
    await edge.close()


def test_what_is_wrong_is_told_before_anything_is_opened() -> None:
    with pytest.raises(BadArgument, match="fps"):
        splitrtc.connect("gpu-box:8787", fps=-1)
    with pytest.raises(splitrtc.SplitRtcError, match="token"):
        splitrtc.serve("0.0.0.0:8787")
    with pytest.raises(TypeError, match="colour"):
        splitrtc.connect("gpu-box:8787", colour="red")  # type: ignore[call-arg]


def test_it_runs_as_a_module() -> None:
    done = python("-m", "splitrtc", "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: splitrtc" in done.stdout
    done = python("-m", "splitrtc", "edge", "--listen", "nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("splitrtc: listen: expected HOST:PORT")
