"""The checks of conftest.py themselves: they must be able to fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import asyncio
import threading

import pytest


async def test_task():
    asyncio.get_running_loop().task = asyncio.create_task(asyncio.Event().wait())


def test_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def test_warning():
    import warnings
    warnings.warn("something", stacklevel=1)


@pytest.fixture
async def server():
    task = asyncio.create_task(asyncio.Event().wait())
    yield task
    task.cancel()


async def test_clean(server):
    await asyncio.to_thread(int)
    assert not server.done()


@pytest.mark.soak
def test_soak():
    raise AssertionError("not part of the suite")
"""


def test_leaks_and_warnings_fail_and_clean_tests_pass(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-c", "pyproject.toml", "--rootdir", "."]
    command += ["-p", "no:cacheprovider", "-p", "tests.conftest", str(tmp_path / "test_it.py")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)

    lines = [line.partition(" - ")[0].rpartition("::") for line in done.stdout.splitlines() if "::" in line]
    outcomes = {(head.split()[0], name) for head, _, name in lines}
    assert outcomes == {("ERROR", "test_task"), ("ERROR", "test_thread"), ("FAILED", "test_warning")}, done.stdout
    assert "3 passed, 1 deselected, 2 errors" in done.stdout
