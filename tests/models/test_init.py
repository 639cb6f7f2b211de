from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import models


@pytest.mark.parametrize("name", models.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(models, name).__name__ == name
    assert name in dir(models)


def test_the_list_of_names_is_sorted_and_whole() -> None:
    assert models.__all__ == sorted(models.__all__)
    assert set(models.__all__) == set(models._MODULE_OF)


def test_other_names_are_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'models' has no attribute 'nothing'"):
        _ = models.nothing


def test_the_package_alone_loads_nothing() -> None:
    code = "import sys, models; print(*(name for name in sys.modules if name.startswith('models.')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
