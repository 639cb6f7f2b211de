from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from models import Zoo
from pipeline.cli.fetching import progress_bar
from splitrtc_errors import BadArgument, UnknownModel, Unreachable

Call = Callable[..., Any]


def test_where_the_files_are_is_told(splitrtc: Call, tiny_model: Path) -> None:
    card = Zoo().get()
    done = splitrtc("models", "fetch", card.name, "tiny", "--models", str(tiny_model))
    assert (done.exit_code, done.err) == (0, "")
    assert done.out.split() == [str(card.path), str(tiny_model / "tiny.onnx")]
    assert splitrtc("models", "fetch", card.name, "--json").json == {card.name: str(card.path)}


def test_what_is_not_here_is_not_fetched_when_told_so(splitrtc: Call, monkeypatch: Any) -> None:
    for words in (["models", "fetch", "yolox_nano", "--offline"], ["models", "verify", "yolox_nano", "--offline"]):
        done = splitrtc(*words)
        assert (done.exit_code, done.out) == (Unreachable.exit_code, "")
        assert "(--offline)" in done.error
    monkeypatch.setenv("SPLITRTC_OFFLINE", "1")
    assert splitrtc("models", "fetch", "yolox_nano").exit_code == Unreachable.exit_code


def test_a_model_of_no_name_is_told(splitrtc: Call) -> None:
    assert splitrtc("models", "fetch", "nonsense").exit_code == UnknownModel.exit_code
    assert splitrtc("models", "fetch", "https://example.org/x.onnx").exit_code == BadArgument.exit_code
    assert splitrtc("models", "fetch").exit_code == 2


def test_a_log_says_once_what_is_fetched(capfd: Any) -> None:
    with progress_bar("[mine]") as progress:
        for there in (0, 500_000, 1_000_000):
            progress(there, 1_000_000)
    assert capfd.readouterr() == ("", "fetching [mine], 1.0 MB\n")
    with progress_bar("nothing"):
        pass
    assert capfd.readouterr() == ("", "")
