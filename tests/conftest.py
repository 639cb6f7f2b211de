"""What every test gets: a cache of its own, Hypothesis's profile, and a check that nothing is left running."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from pipeline.clip import CLIP

ROOT = Path(__file__).resolve().parent.parent
GRACE = 1.0
"""How long a thread or a task that was told to end may take to do it, in seconds."""

# Time limits per example would make a slow machine fail; the same examples each time make a failure one to repeat.
settings.register_profile(
    "suite", max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("FUZZ_EXAMPLES") or 20_000),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the tests cache away from the user's own; all tests (and what they start) share it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITRTC_CACHE", str(tmp_path_factory.mktemp("splitrtc-cache")))
        patch.setenv("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))
        yield


@pytest.fixture(autouse=True)
def _no_leaked_threads() -> Iterator[None]:
    """Fail a test that leaves a thread running. It is set up first, so it looks after all other fixtures ended."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    deadline = time.monotonic() + GRACE
    for thread in left:
        thread.join(max(0.0, deadline - time.monotonic()))
    names = [thread.name for thread in left if thread.is_alive()]
    assert not names, f"threads left running: {names}"


@pytest.fixture(autouse=True)
def _no_leaked_tasks(request: pytest.FixtureRequest, _no_leaked_threads: None) -> None:
    """Fail an asynchronous test that leaves a task running; for others there is no loop to look at."""
    if request.node.get_closest_marker("asyncio") is not None:
        request.getfixturevalue("_task_check")


@pytest.fixture
async def _task_check() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=GRACE)
    names = [repr(task) for task in left if not task.done()]
    assert not names, f"tasks left running: {names}"


@pytest.fixture(scope="session")
def clip_path() -> Path:
    """The bundled clip."""
    return CLIP


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Models and pictures that must not be committed: a folder ``shared`` beside the repository, where there is one."""
    path = ROOT.parent / "shared"
    if not (path / "models").is_dir():
        pytest.skip("no folder 'shared' with further models and pictures beside the repository")
    return path
