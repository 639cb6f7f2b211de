from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tensor import TensorSpec
from signaling.control import (
    ControlMessage,
    ParameterSet,
    ParameterSetAck,
    ParameterSetReject,
    ParameterSetRelease,
    ParameterSetReleased,
    PeerFailure,
)
from signaling.parametersets import MAX_OPEN_SETS, ReceivedSets, SentSets
from splitrtc_errors import BadArgument, CodecError

SET = ParameterSet(
    id=0,
    direction="up",
    model="sha-256:" + "ab" * 32,
    partition="cd" * 16,
    variant="fp32",
    profile="raw",
    calibration=None,
    tensors=(TensorSpec("x", "float32", (1,)),),
    deadline_ms=100,
    budget_ms=400,
)


def opened(parameters: ParameterSet) -> str:
    """Stands for what a receiver makes of a set."""
    if parameters.profile == "broken":
        raise CodecError("no such profile")
    return f"decoder {parameters.id}"


def test_the_life_of_a_set() -> None:
    sent, received = SentSets(), ReceivedSets(opened)
    announced = sent.announce(SET)
    assert announced == replace(SET, id=1)
    assert not sent.usable(1)
    assert received.receive(announced) == ParameterSetAck(1)
    assert 1 in received
    assert received.get(1) == "decoder 1"
    assert sent.receive(ParameterSetAck(1)) == announced
    assert sent.usable(1)
    release = sent.release(1)
    assert release == ParameterSetRelease(1)
    assert not sent.usable(1)
    assert received.receive(release) == ParameterSetReleased(1)
    assert 1 not in received
    assert received.get(1) is None
    assert sent.receive(ParameterSetReleased(1)) == announced
    assert (len(sent), len(received), sent.ignored, received.ignored) == (0, 0, 0, 0)


def test_a_refused_set_is_gone_on_both_sides() -> None:
    sent, received = SentSets(), ReceivedSets(opened)
    announced = sent.announce(replace(SET, profile="broken"))
    reply = received.receive(announced)
    assert reply == ParameterSetReject(1, "no such profile")
    assert isinstance(reply, ParameterSetReject)
    assert sent.receive(reply) == announced
    assert (len(sent), len(received)) == (0, 0)


def test_a_set_of_the_other_direction_is_refused() -> None:
    received = ReceivedSets(opened, "down")
    assert isinstance(received.receive(replace(SET, id=1)), ParameterSetReject)
    assert received.receive(replace(SET, id=1, direction="down")) == ParameterSetAck(1)


def test_ids_are_not_used_again_soon() -> None:
    sent = SentSets()
    seen = []
    for _ in range(300):
        announced = sent.announce(SET)
        seen.append(announced.id)
        sent.release(announced.id)
        sent.receive(ParameterSetReleased(announced.id))
    assert seen == [n % 255 + 1 for n in range(300)]


def test_an_id_in_use_is_passed_over() -> None:
    sent = SentSets()
    first = sent.announce(SET)
    for _ in range(254):
        sent.receive(ParameterSetReject(sent.announce(SET).id, "no"))
    assert sent.announce(SET).id == first.id + 1


def test_open_sets_are_few_on_both_sides() -> None:
    sent, received = SentSets(), ReceivedSets(opened)
    for n in range(1, MAX_OPEN_SETS + 1):
        assert received.receive(sent.announce(SET)) == ParameterSetAck(n)
    sent.release(1)
    with pytest.raises(BadArgument, match="8 parameter sets are open"):
        sent.announce(SET)
    assert received.receive(replace(SET, id=99)) == ParameterSetReject(99, "8 parameter sets are open")
    sent.receive(ParameterSetReleased(1))
    assert sent.announce(SET).id == 9


def test_only_an_open_set_can_be_released() -> None:
    sent = SentSets()
    sent.announce(SET)
    sent.release(1)
    for id_ in (1, 2):
        with pytest.raises(BadArgument, match="not open"):
            sent.release(id_)


def test_a_release_may_cross_the_answer_to_the_announcement() -> None:
    for answer in (ParameterSetAck(1), ParameterSetReject(1, "no")):
        sent = SentSets()
        announced = sent.announce(SET)
        sent.release(1)
        changed = sent.receive(answer)
        assert not sent.usable(1)
        assert sent.ignored == 0
        if isinstance(answer, ParameterSetReject):
            assert changed == announced
            assert len(sent) == 0
        else:
            assert changed is None
            assert sent.receive(ParameterSetReleased(1)) == announced


def test_answers_that_fit_no_set_are_counted() -> None:
    sent = SentSets()
    sent.announce(SET)
    sent.receive(ParameterSetAck(1))
    for answer in (ParameterSetAck(1), ParameterSetReject(1, ""), ParameterSetReleased(1), ParameterSetAck(2)):
        assert sent.receive(answer) is None
    assert sent.ignored == 4
    assert sent.usable(1)


def test_an_id_announced_twice_keeps_its_first_set() -> None:
    received = ReceivedSets(opened)
    received.receive(replace(SET, id=1))
    reply = received.receive(replace(SET, id=1, profile="broken"))
    assert isinstance(reply, PeerFailure)
    assert received.get(1) == "decoder 1"
    assert received.ignored == 1


def test_the_release_of_what_is_not_open_is_counted() -> None:
    received = ReceivedSets(opened)
    assert received.receive(ParameterSetRelease(1)) is None
    assert received.ignored == 1


STEPS = st.lists(
    st.tuples(st.sampled_from(["announce", "break", "release", "up", "down"]), st.integers(0, 9)), max_size=60
)


@given(STEPS)
def test_both_sides_agree_whatever_order_things_happen_in(steps: list[tuple[str, int]]) -> None:
    """A model of the two ends and the two queues between them: what is usable at the sender is open at the receiver."""
    sent, received = SentSets(), ReceivedSets(opened)
    up: list[ControlMessage] = []
    down: list[ControlMessage] = []

    def deliver_up() -> None:
        message = up.pop(0)
        assert isinstance(message, ParameterSet | ParameterSetRelease)
        reply = received.receive(message)
        if reply is not None:
            down.append(reply)

    def deliver_down() -> None:
        message = down.pop(0)
        assert isinstance(message, ParameterSetAck | ParameterSetReject | ParameterSetReleased)
        sent.receive(message)

    for step, n in steps:
        match step:
            case "announce" | "break" if len(sent) < MAX_OPEN_SETS:
                up.append(sent.announce(SET if step == "announce" else replace(SET, profile="broken")))
            case "release":
                usable = [id_ for id_ in range(1, 256) if sent.usable(id_)]
                if usable:
                    up.append(sent.release(usable[n % len(usable)]))
            case "up" if up:
                deliver_up()
            case "down" if down:
                deliver_down()
        assert all(id_ in received for id_ in range(1, 256) if sent.usable(id_))
        assert len(sent) <= MAX_OPEN_SETS
        assert len(received) <= MAX_OPEN_SETS
    while up or down:
        if up:
            deliver_up()
        else:
            deliver_down()
    assert len(sent) == len(received)
    assert (sent.ignored, received.ignored) == (0, 0)
