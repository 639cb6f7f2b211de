from __future__ import annotations

import inspect
import re

import pytest

import splitrtc_errors
from splitrtc_errors import BadArgument, EdgeFull, NegotiationTimeout, Rejected, SplitRtcError, UserError

CLASSES: dict[str, type[SplitRtcError]] = {
    name: value
    for name, value in vars(splitrtc_errors).items()
    if inspect.isclass(value) and issubclass(value, SplitRtcError)
}


def drawn_tree() -> dict[str, str | None]:
    """Each class in the module's drawing with the class that it hangs on."""
    parents: dict[str, str | None] = {}
    above: list[str] = []
    for line in (splitrtc_errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)( .*)?", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        del above[depth:]
        parents[match[2]] = above[-1] if above else None
        above.append(match[2])
    return parents


def test_the_tree_is_the_one_that_is_drawn() -> None:
    def own(kind: type) -> list[str]:
        return [base.__name__ for base in kind.__bases__ if issubclass(base, SplitRtcError)]

    assert drawn_tree() == {name: next(iter(own(kind)), None) for name, kind in CLASSES.items()}
    assert all(len(own(kind)) <= 1 for kind in CLASSES.values())


def test_every_class_is_public() -> None:
    assert set(splitrtc_errors.__all__) == set(CLASSES)
    assert splitrtc_errors.__all__ == sorted(splitrtc_errors.__all__)


def test_every_class_says_what_it_is_for() -> None:
    assert all(kind.__doc__ and kind.__dict__["__doc__"] for kind in CLASSES.values())


def test_exit_codes_tell_errors_apart() -> None:
    codes = {kind: kind.exit_code for kind in CLASSES.values()}
    # A bad argument is what users get wrong first, and what every command line calls 2.
    assert codes.pop(BadArgument) == codes[UserError] == 2
    assert len(set(codes.values())) == len(codes)
    # 0 is success, 64 to 78 are those of sysexits.h, from 126 on they belong to the shell.
    assert all(0 < code < 64 for code in codes.values())


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(BadArgument, ValueError)
    assert issubclass(NegotiationTimeout, TimeoutError)


@pytest.mark.parametrize(
    ("problem", "seconds"),
    [
        (None, None),
        ({}, None),
        ({"retry_after": 5}, 5.0),
        ({"retry_after": 0.5}, 0.5),
        ({"retry_after": 0}, 0.0),
        ({"retry_after": 86_400}, 86_400.0),
        ({"retry_after": 86_401}, None),
        ({"retry_after": -1}, None),
        ({"retry_after": float("nan")}, None),
        ({"retry_after": float("inf")}, None),
        ({"retry_after": 10**400}, None),
        ({"retry_after": True}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": None}, None),
    ],
)
def test_the_time_to_retry_is_read_from_what_the_peer_wrote(
    problem: dict[str, object] | None, seconds: float | None
) -> None:
    assert EdgeFull("full", problem).retry_after == seconds


def test_a_refusal_keeps_its_problem_to_itself() -> None:
    problem = {"type": "about:blank"}
    error = Rejected("no", problem)
    problem["type"] = "changed"
    assert (str(error), error.problem) == ("no", {"type": "about:blank"})
