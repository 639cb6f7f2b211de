from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from models.codecs.mirror import KEPT_STATES, REACH, REORDERED, WINDOW, Mirror

State = tuple[object, ...]
"""What a receiver has: a history in symbols, so that two receivers are alike only if all that matters was alike."""


@dataclass(frozen=True)
class Content:
    """A frame whose state tells all that it was made from."""

    frame_id: int
    slices: int = 2

    def onto(self, base: State | None, latest: State | None, received: Sequence[bool] | None = None) -> State:
        flags = tuple(received) if received is not None else (True,) * self.slices
        return (self.frame_id, flags, hash(base), None if all(flags) else hash(latest))


class Receiver:
    """A decoder's book-keeping, as docs/protocol.md section 4.6 has it."""

    def __init__(self) -> None:
        self.states: OrderedDict[int, State] = OrderedDict()
        self.newest = 0

    def decode(self, content: Content, reference: int | None, flags: Sequence[bool]) -> None:
        latest = next(reversed(self.states.values()), None)
        older = [state for frame_id, state in self.states.items() if reference is not None and frame_id <= reference]
        self.states[content.frame_id] = content.onto(older[-1] if older else None, latest, flags)
        self.newest = content.frame_id
        if len(self.states) > KEPT_STATES:
            self.states.popitem(last=False)


class Link(RuleBasedStateMachine):
    """A sender and a receiver with everything in between that can go wrong.

    What the sender is certain of must be true, and of what is not certain it must be right where nothing went wrong.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mirror = Mirror()
        self.receiver = Receiver()
        self.next_id = 1
        self.under_way: list[tuple[Content, int | None]] = []
        self.answers: list[tuple[int, list[bool]]] = []
        self.untold = False
        """Whether the sender has not been told of every frame."""
        self.states: dict[int, State] = {}
        """What the receiver really had after each frame."""

    @rule(slices=st.integers(1, 3), certain=st.booleans(), gap=st.sampled_from((1, 1, 1, 2)))
    def send(self, slices: int, certain: bool, gap: int) -> None:
        self.next_id += gap - 1
        found = self.mirror.best(self.next_id, certain)
        reference = None if found is None else found[0]
        content = Content(self.next_id, slices)
        self.mirror.sent(self.next_id, content, reference)
        self.under_way.append((content, reference))
        self.next_id += 1

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), which=st.sampled_from((0, 0, 0, 1, -1)))
    def arrive(self, data: st.DataObject, which: int) -> None:
        """A frame, perhaps not the oldest, arrives, perhaps in part; what is behind the newest is passed over."""
        content, reference = self.under_way.pop(min(which, len(self.under_way) - 1))
        flags = data.draw(
            st.just([True] * content.slices) | st.lists(st.booleans(), min_size=content.slices, max_size=content.slices)
        )
        if not any(flags):
            self.untold = True
            return
        if content.frame_id < self.receiver.newest:
            self.answers.append((content.frame_id, [False] * content.slices))
            return
        self.receiver.decode(content, reference, flags)
        self.states[content.frame_id] = self.receiver.states[content.frame_id]
        self.answers.append((content.frame_id, flags))

    @precondition(lambda self: self.under_way)
    @rule()
    def drop_and_tell(self) -> None:
        """The sender gives a frame up before it is sent."""
        content, _ = self.under_way.pop()
        self.answers.append((content.frame_id, [False] * content.slices))

    @precondition(lambda self: self.answers)
    @rule(which=st.sampled_from((0, 0, 0, 1, -1)), twice=st.booleans())
    def answer(self, which: int, twice: bool) -> None:
        """An answer comes, perhaps out of order, perhaps again later."""
        which = min(which, len(self.answers) - 1)
        self.mirror.acknowledged(*(self.answers[which] if twice else self.answers.pop(which)))

    @precondition(lambda self: self.answers)
    @rule()
    def lose_an_answer(self) -> None:
        self.answers.pop(0)
        self.untold = True

    @invariant()
    def what_is_certain_is_true(self) -> None:
        found = self.mirror.best(self.next_id, certain=True)
        if found is not None:
            frame_id, state = found
            assert self.states[frame_id] == state
            assert self.next_id - frame_id <= REACH
            assert frame_id in self.receiver.states or self.receiver.newest - frame_id > REACH
        for frame_id, frame in self.mirror._sent.items():
            if frame.sure:
                assert frame.taken == (frame_id in self.states)
                assert frame.state == self.states.get(frame_id)

    def teardown(self) -> None:
        """Once everything is answered the sender is right about everything that it predicts from."""
        for answer in self.answers:
            self.mirror.acknowledged(*answer)
        found = self.mirror.best(self.next_id)
        if not self.untold and not self.under_way and found is not None:
            assert self.states[found[0]] == found[1]


TestLink = Link.TestCase
TestLink.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def stream(mirror: Mirror, count: int, first: int = 1) -> list[int | None]:
    """Send some frames of two slices; returns what they refer to."""
    references = []
    for frame_id in range(first, first + count):
        found = mirror.best(frame_id)
        references.append(None if found is None else found[0])
        mirror.sent(frame_id, Content(frame_id), references[-1])
    return references


def test_the_last_frame_is_the_reference() -> None:
    mirror = Mirror()
    assert stream(mirror, 5) == [None, 1, 2, 3, 4]
    assert mirror.best(6, certain=True) is None
    mirror.acknowledged(1, [True, True])
    mirror.acknowledged(2, [True, False])
    assert mirror.best(6, certain=True) == (1, Content(1).onto(None, None))


def test_a_loss_is_replayed_up_to_the_last_frame() -> None:
    mirror = Mirror()
    stream(mirror, 4)
    before = mirror.best(5)
    mirror.acknowledged(1, [True, True])
    assert mirror.best(5) == before
    mirror.acknowledged(2, [True, False])
    first = Content(1).onto(None, None)
    second = Content(2).onto(first, first, [True, False])
    assert mirror.best(5) == (4, Content(4).onto(Content(3).onto(second, None), None))


def test_a_frame_that_never_came_is_passed_over() -> None:
    mirror = Mirror()
    stream(mirror, 3)
    mirror.acknowledged(1, [True, True])
    mirror.acknowledged(2, [False, False])
    assert mirror.best(4) == (3, Content(3).onto(Content(1).onto(None, None), None))


def test_without_an_answer_nothing_is_known_of_what_follows() -> None:
    mirror = Mirror()
    stream(mirror, 3 + REORDERED)
    for frame_id in (1, 2, *range(4, 3 + REORDERED)):
        mirror.acknowledged(frame_id, [True, True])
    assert mirror.best(9)[0] == 3 + REORDERED  # type: ignore[index]
    mirror.acknowledged(3 + REORDERED, [True, True])
    assert mirror.best(9) == (2, Content(2).onto(Content(1).onto(None, None), None))
    assert mirror.best(3 + REACH) is None
    mirror.acknowledged(3, [True, True])
    assert mirror.best(9)[0] == 3 + REORDERED  # type: ignore[index]


def test_after_a_long_silence_there_is_one_intra_frame() -> None:
    mirror = Mirror()
    references = stream(mirror, 3 * WINDOW)
    assert [i for i, reference in enumerate(references, 1) if reference is None] == [1, WINDOW + 2, 2 * WINDOW + 3]


@pytest.mark.parametrize("received", [[True], [True, True, True], []])
def test_answers_that_make_no_sense_are_ignored(received: list[bool]) -> None:
    mirror = Mirror()
    stream(mirror, 2)
    assert not mirror.acknowledged(2, received)
    assert not mirror.acknowledged(3, [True, True])
    assert mirror.acknowledged(2, [True, True])
    assert not mirror.acknowledged(2, [False, False])
    assert mirror.best(3)[0] == 2  # type: ignore[index]


def test_a_frame_whose_reference_is_unknown_or_forgotten_is_unknown() -> None:
    mirror = Mirror()
    stream(mirror, 4)
    # The second lost a slice, and of what was before it nobody can tell: not of it, nor of what follows.
    mirror.acknowledged(2, [True, False])
    for frame_id in range(5, 5 + REORDERED):
        mirror.sent(frame_id, Content(frame_id), None)
        mirror.acknowledged(frame_id, [True, False])
    assert mirror.best(5 + REORDERED) is None
    mirror.acknowledged(1, [True, True])
    assert mirror.best(5 + REORDERED)[0] == 2  # type: ignore[index]
