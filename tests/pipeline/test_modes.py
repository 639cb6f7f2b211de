"""Which lane serves, as a model says it: whatever happens, and in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.modes import GRACE, MAX_AWAITED, MAX_PROOFS, PROBE_INTERVAL, STEADY, Modes

A, B, OWN = "edge A", "edge B", "own"


def reasons(modes: Modes[str]) -> list[tuple[str | None, str]]:
    """What was told since the last call."""
    told, modes.changes = modes.changes, []
    return [(change.lane, change.reason) for change in told]


@pytest.fixture
def modes() -> Modes[str]:
    """One edge's lane serves and usually takes 0.1 s."""
    modes: Modes[str] = Modes()
    modes.opened(A, "connected", 0.0)
    modes.submitted(A, 1, 0.0)
    modes.answered(A, 1, 0.1)
    assert reasons(modes) == [(A, "connected")]
    assert modes.next_event() is None
    return modes


def test_the_own_lane_takes_over_when_a_result_is_long_due(modes: Modes[str]) -> None:
    modes.own_ready(OWN, "ready", 0.0)
    assert (modes.serving, reasons(modes)) == (A, [])
    modes.submitted(A, 2, 1.0)
    assert modes.next_event() == pytest.approx(1.0 + 0.1 + GRACE)
    modes.tick(1.0 + 0.1 + GRACE - 1e-3)
    assert modes.serving == A
    modes.tick(1.0 + 0.1 + GRACE + 1e-6)
    assert (modes.serving, modes.trial) == (OWN, A)
    assert reasons(modes) == [(OWN, "no result for 0.6 s")]


def test_what_was_silent_serves_again_with_its_next_result(modes: Modes[str]) -> None:
    modes.own_ready(OWN, "ready", 0.0)
    modes.submitted(A, 2, 21.0)
    modes.tick(22.0)
    assert modes.probe_wanted
    modes.probed(22.0)
    modes.submitted(A, 3, 22.0)
    assert not modes.probe_wanted
    assert modes.next_event() == pytest.approx(22.0 + PROBE_INTERVAL)
    modes.tick(22.0 + PROBE_INTERVAL)
    assert modes.probe_wanted
    modes.answered(OWN, 3, 22.3)  # which is no news of the edge
    assert modes.serving == OWN
    modes.answered(A, 2, 22.4)  # late: this link is slower now
    assert (modes.serving, modes.trial, modes.probe_wanted) == (A, None, False)
    assert [reason for _, reason in reasons(modes)] == ["no result for 1.0 s", "results come again"]
    modes.submitted(A, 4, 23.0)
    assert modes.next_event() == pytest.approx(23.0 + 1.4 + GRACE)


def test_a_lane_that_soon_falls_silent_again_is_believed_less(modes: Modes[str]) -> None:
    modes.own_ready(OWN, "ready", 0.0)
    now, index, needed = 20.0, 2, []
    for wait in (0.0, 1.0, 1.0, 1.0, 1.0, 1.0, STEADY + 1.0):
        now, index = now + wait, index + 1
        modes.submitted(A, index, now)
        now += 2.0
        modes.tick(now)
        assert (modes.serving, modes.trial) == (OWN, A)
        proofs = 0
        while modes.serving == OWN:
            now, index, proofs = now + PROBE_INTERVAL, index + 1, proofs + 1
            modes.submitted(A, index, now)
            modes.answered(A, index, now + 0.1)
        needed.append(proofs)
    assert needed == [1, 2, 4, 8, MAX_PROOFS, MAX_PROOFS, 1]


def test_an_edge_that_comes_back_serves_with_its_first_result(modes: Modes[str]) -> None:
    modes.own_ready(OWN, "ready", 0.0)
    modes.closed(A, "lost", 1.0)
    assert reasons(modes) == [(OWN, "lost")]
    modes.opened(B, "connected again", 5.0)
    assert (modes.serving, modes.trial, reasons(modes)) == (OWN, B, [])
    modes.probed(5.0)
    modes.submitted(B, 9, 5.0)
    modes.answered(B, 9, 5.2)
    assert reasons(modes) == [(B, "connected again")]
    modes.submitted(B, 10, 6.0)
    assert modes.next_event() == pytest.approx(6.0 + 0.2 + GRACE)


def test_without_an_own_lane_the_silent_one_goes_on_and_it_is_told(modes: Modes[str]) -> None:
    modes.submitted(A, 2, 1.0)
    modes.tick(2.0)
    assert (modes.serving, modes.next_event()) == (A, None)
    assert reasons(modes) == [(None, "no result for 1.0 s")]
    modes.submitted(A, 3, 2.5)
    modes.tick(9.0)  # told once
    modes.answered(A, 3, 9.1)
    assert reasons(modes) == [(A, "results come again")]


def test_an_own_lane_that_is_ready_late_helps_at_once(modes: Modes[str]) -> None:
    modes.submitted(A, 2, 1.0)
    modes.tick(2.0)
    modes.own_ready(OWN, "ready", 2.5)
    assert (modes.serving, modes.trial) == (OWN, A)
    assert [lane for lane, _ in reasons(modes)] == [None, OWN]


def test_where_nothing_serves_what_comes_does(modes: Modes[str]) -> None:
    modes.closed(A, "lost", 1.0)
    modes.absent("refused", 1.1)
    assert (modes.serving, reasons(modes)) == (None, [(None, "lost"), (None, "refused")])
    modes.own_ready(OWN, "refused", 1.2)
    modes.absent("refused again", 1.3)
    assert (modes.serving, reasons(modes)) == (OWN, [(OWN, "refused")])


def test_a_silent_lane_gives_way_to_a_new_one(modes: Modes[str]) -> None:
    modes.submitted(A, 2, 1.0)
    modes.tick(2.0)
    modes.opened(B, "connected", 2.5)
    assert (modes.serving, modes.trial) == (B, None)
    modes.answered(A, 2, 2.6)  # nobody asks it any more
    modes.submitted(A, 3, 2.6)
    modes.closed(A, "closed", 2.7)
    assert (modes.serving, modes.next_event()) == (B, None)


def test_make_before_break(modes: Modes[str]) -> None:
    modes.opened(A, "no news", 1.0)
    assert (modes.serving, modes.trial, reasons(modes)) == (A, None, [])
    modes.opened(B, "moved", 1.0)
    assert (modes.serving, modes.trial) == (A, B)
    modes.promote(A, 1.0)  # it serves already
    assert modes.serving == A
    modes.submitted(A, 2, 1.0)
    modes.probed(1.0)
    modes.submitted(B, 2, 1.0)
    modes.answered(B, 2, 1.1)
    assert (modes.serving, modes.trial) == (B, None)


@pytest.mark.parametrize("end", ["closed", "silent", "promoted"])
def test_without_an_own_lane_one_on_trial_is_the_next_best(modes: Modes[str], end: str) -> None:
    modes.opened(B, "moved", 1.0)
    match end:
        case "closed":
            modes.closed(A, "lost", 1.1)
        case "silent":
            modes.submitted(A, 2, 1.0)
            modes.tick(2.0)
        case _:
            modes.promote(B, 1.1)
    assert (modes.serving, modes.trial) == (B, None)


def test_a_lane_may_end_on_trial(modes: Modes[str]) -> None:
    modes.opened(B, "moved", 1.0)
    modes.closed(B, "lost", 1.1)
    assert (modes.serving, modes.trial, modes.probe_wanted, modes.next_event()) == (A, None, False, None)


def test_a_silent_one_does_not_take_the_place_of_a_newer_one_on_trial(modes: Modes[str]) -> None:
    modes.own_ready(OWN, "ready", 0.0)
    modes.opened(B, "moved", 1.0)
    modes.submitted(A, 2, 1.0)
    modes.tick(2.0)
    assert (modes.serving, modes.trial) == (OWN, B)
    modes.closed(A, "lost", 2.1)
    assert (modes.serving, modes.trial) == (OWN, B)


def test_only_so_many_frames_are_remembered_and_numbers_may_begin_anew(modes: Modes[str]) -> None:
    for index in range(2, MAX_AWAITED + 100):
        modes.submitted(A, index, 1.0)
    assert len(modes._awaited) == MAX_AWAITED
    modes.forget()
    modes.submitted(A, 0, 5.0)
    modes.answered(A, 0, 5.1)
    modes.tick(100.0)
    assert modes.serving == A


PERIOD, LOCAL_RUN, TYPICAL = 0.05, 0.03, 0.08


class Session(RuleBasedStateMachine):
    """A camera, a device with a model of its own, and edges that answer, fall silent, end and come back."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: Modes[str] = Modes()
        self.now = 0.0
        self.index = 0
        self.edges: dict[str, str] = {}
        self.own = False
        self.result = 0.0
        self.number = 0
        self.frames: list[tuple[float, str, int]] = []
        self.told: list[str | None] = []

    @initialize(own=st.booleans())
    def begin(self, own: bool) -> None:
        if own:
            self.own = True
            self.modes.own_ready(OWN, "ready", self.now)

    def answer(self, lane: str, index: int) -> None:
        # The frame's own result is shown if the lane serves; that of a probe makes it serve.
        if lane in (self.modes.serving, self.modes.trial) and self.modes.trial != lane:
            self.result = self.now
        self.modes.answered(lane, index, self.now)

    def wait(self, until: float) -> None:
        while True:
            due = [(at, lane, index) for at, lane, index in self.frames if at <= until]
            event = self.modes.next_event()
            first = min(due, default=None)
            if event is not None and event <= until and (first is None or event <= first[0]):
                self.now = max(self.now, event)
                self.modes.tick(self.now + 1e-9)
                if event == self.modes.next_event():
                    raise AssertionError("nothing was done at its time")
            elif first is not None:
                self.frames.remove(first)
                self.now = max(self.now, first[0])
                if self.edges.get(first[1]) == "well":
                    self.answer(first[1], first[2])
            else:
                break
        self.now = until
        self.told += [change.lane for change in self.modes.changes]
        self.modes.changes.clear()

    @rule(count=st.integers(1, 30))
    def the_camera_runs(self, count: int) -> None:
        for _ in range(count):
            self.index += 1
            lane = self.modes.serving
            probe = self.modes.trial if self.modes.probe_wanted else None
            if lane == OWN:
                self.wait(self.now + LOCAL_RUN)
                self.result = self.now
                self.modes.submitted(OWN, self.index, self.now)
                self.modes.answered(OWN, self.index, self.now)
            elif lane is not None:
                self.modes.submitted(lane, self.index, self.now)
                self.frames.append((self.now + TYPICAL, lane, self.index))
            if probe is not None and probe == self.modes.trial:
                self.modes.probed(self.now)
                self.modes.submitted(probe, self.index, self.now)
                self.frames.append((self.now + TYPICAL, probe, self.index))
            self.wait(self.now + PERIOD)
            self.check_the_gap()

    def check_the_gap(self) -> None:
        if self.own:
            assert self.now - self.result <= TYPICAL + GRACE + 2 * (PERIOD + LOCAL_RUN) + TYPICAL

    @precondition(lambda self: len(self.edges) < 3)
    @rule()
    def an_edge_comes(self) -> None:
        self.number += 1
        lane = f"edge {self.number}"
        self.edges[lane] = "well"
        self.modes.opened(lane, "connected", self.now)

    @precondition(lambda self: self.edges)
    @rule(data=st.data())
    def an_edge_falls_silent_or_recovers(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(sorted(self.edges)))
        self.edges[lane] = "silent" if self.edges[lane] == "well" else "well"

    @precondition(lambda self: self.edges)
    @rule(data=st.data())
    def an_edge_ends(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(sorted(self.edges)))
        del self.edges[lane]
        self.modes.closed(lane, "lost", self.now)

    @rule()
    def a_run_ends_and_another_begins(self) -> None:
        self.modes.forget()
        self.frames.clear()
        self.index = 0
        self.result = self.now

    @invariant()
    def what_serves_is_there(self) -> None:
        there = {*self.edges, *([OWN] if self.own else [])}
        assert self.modes.serving in there | {None}
        assert self.modes.trial in set(self.edges) | {None}
        assert self.modes.trial is None or self.modes.trial != self.modes.serving
        assert self.modes.serving is not None or (self.modes.trial is None and not self.own)
        assert not self.modes.probe_wanted or self.modes.trial is not None

    @rule()
    def an_edge_that_works_serves_in_the_end(self) -> None:
        """Given time, and an edge that is open and answers, the device does not go on alone."""
        self.the_camera_runs(100)
        candidate = self.modes.trial or self.modes.serving
        if candidate in self.edges and self.edges[candidate] == "well":
            assert self.modes.serving == candidate


TestSession = Session.TestCase
