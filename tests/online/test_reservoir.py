"""Policies of the buffer between solvers and trainer; what it must never do, in random runs."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.online.reservoir import Reservoir

POLICIES = ("fifo", "firo", "reservoir")


def make(policy="reservoir", capacity=8, threshold=4, seed=0):
    return Reservoir(policy, capacity, threshold, np.random.default_rng(seed))


@st.composite
def runs(draw, policies=POLICIES):
    """A buffer, the size of its batches, and what is done: put until told to wait, or draw."""
    count = draw(st.integers(1, 4))
    threshold = draw(st.integers(count, 8))
    capacity = draw(st.integers(threshold + count, 20))
    buffer = make(draw(st.sampled_from(policies)), capacity, threshold, draw(st.integers(0, 9)))
    return buffer, count, draw(st.lists(st.sampled_from(["put", "draw"]), max_size=120))


def play(buffer, count, actions):
    """What entered, what was drawn, and what was dropped unseen: that is checked at every put."""
    entered, batches = [], []
    for action in actions:
        if action == "put":
            before, full = set(buffer.items), len(buffer) == buffer.capacity
            unseen = buffer.unseen
            if buffer.put(len(entered)):
                entered.append(len(entered))
                lost = before - set(buffer.items)
                assert len(lost) == full and not lost - {i for b in batches for i in b}
                assert buffer.unseen == unseen + 1
            else:
                assert full and (buffer.policy != "reservoir" or unseen == buffer.capacity)
        elif buffer.ready(count):
            there = set(buffer.items)
            batch = buffer.draw(count)
            assert len(set(batch)) == count and set(batch) <= there
            batches.append(batch)
        assert len(buffer) == len(buffer.items) == len(set(buffer.items)) <= buffer.capacity
    return entered, batches


@given(runs(("fifo", "firo")))
@settings(max_examples=200, deadline=None)
def test_nothing_is_lost_or_used_twice(run):
    buffer, count, actions = run
    entered, batches = play(buffer, count, actions)
    drawn = [item for batch in batches for item in batch]
    assert len(set(drawn)) == len(drawn)
    assert sorted(drawn + buffer.items) == entered
    if buffer.policy == "fifo":
        assert drawn == sorted(drawn)
    elif drawn:
        assert len(buffer) >= buffer.threshold
    assert (buffer.drawn, buffer.used) == (len(drawn), len(drawn))


@given(runs(("reservoir",)))
@settings(max_examples=200, deadline=None)
def test_what_was_not_drawn_is_never_dropped(run):
    buffer, count, actions = run
    entered, batches = play(buffer, count, actions)  # `play` checks every eviction
    drawn = {item for batch in batches for item in batch}
    assert set(entered) <= drawn | set(buffer.items)
    assert buffer.unseen == len(set(buffer.items) - drawn)
    assert buffer.used == len(drawn) and buffer.drawn == count * len(batches)


@given(runs())
@settings(max_examples=200, deadline=None)
def test_a_drained_buffer_gives_what_it_has_once(run):
    buffer, count, actions = run
    play(buffer, count, actions)
    left = buffer.items
    buffer.drain()
    drained = []
    while buffer.ready(count):
        drained += buffer.draw(count)
    assert len(buffer) < count
    assert Counter(drained + buffer.items) == Counter(left)


@pytest.mark.parametrize("policy", POLICIES)
def test_training_waits_for_the_threshold(policy):
    buffer = make(policy, capacity=8, threshold=4)
    needed = 6 if policy == "firo" else 4  # which keeps the threshold's number
    for item in range(needed):
        assert not buffer.ready(2)
        with pytest.raises(ValueError, match="too few"):
            buffer.draw(2)
        assert buffer.put(item)
    buffer.draw(2)
    assert buffer.ready(2) == (policy != "firo")  # started, the others go on below it


def test_a_full_reservoir_of_unseen_items_makes_its_producer_wait():
    buffer = make(capacity=8, threshold=4)
    assert all(buffer.put(item) for item in range(8))
    assert not buffer.put(8) and buffer.items == list(range(8))
    batch = buffer.draw(3)
    assert [buffer.put(item) for item in (8, 9, 10, 11)] == [True, True, True, False]
    assert not set(batch) & set(buffer.items)


def test_a_reservoir_draws_seen_and_unseen_alike():
    """Each of the items equally often, whether it was drawn before or not."""
    buffer = make(capacity=20, threshold=10)
    for item in range(20):
        buffer.put(item)
    counts = Counter(item for _ in range(2000) for item in buffer.draw(5))
    assert all(abs(counts[item] - 500) < 5 * np.sqrt(500) for item in range(20))


def test_the_same_calls_give_the_same_items():
    def batches(seed):
        buffer = make(seed=seed)
        return play(buffer, 2, ["put"] * 8 + ["draw", "put", "put"] * 10)[1]

    assert batches(1) == batches(1) != batches(2)
