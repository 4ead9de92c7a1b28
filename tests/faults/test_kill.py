"""SIGKILL at random moments: the rerun ends with the same bits, nothing partial passes as whole."""

import csv
import time

import pytest
import torch

from faults.project import EXPERIMENT, VERBS, times

pytestmark = pytest.mark.xdist_group("faults")


def killed(project, verb, chance, seconds):
    """Kill a verb at a random moment of the seconds that it took before, or of the fewer now."""
    while True:
        moment = chance.uniform(0, seconds)
        child = project.without(verb).start(verb)
        time.sleep(moment)
        if child.kill().code == -9:
            return
        assert child.code == 0, child.text
        seconds = moment


def lost(project, verb, log):
    """What the rerun had to do again."""
    if verb == "generate" and "are there already" in log:
        return "the shard in flight, made again"
    if verb == "train" and (states := list(project.folder.glob("runs/net/*/last.ckpt"))):
        (state,) = states
        step = torch.load(state, weights_only=True)["global_step"]
        with state.with_name("curves.csv").open() as file:
            logged = [int(r[0]) for r in csv.reader(file) if r[0].isdigit() and len(r) == 3]
        every = EXPERIMENT["trainer"]["checkpoint_every"]
        assert max(logged, default=0) - step <= every
        return f"at most the {every} updates since the last checkpoint, made again"
    return "time alone: begun again"


@pytest.mark.parametrize(
    ("verb", "number"),
    [
        pytest.param(verb, number, marks=pytest.mark.fault(f"kill_{verb}"))
        for verb in VERBS
        for number in range(times(10))
    ],
)
def test_sigkill_costs_no_bit(whole, project, chance, row, verb, number):
    killed(project, verb, chance, whole.seconds[verb])
    expected = whole.content(verb)
    # whatever is there under its own name is whole
    assert project.content(verb).items() <= expected.items()
    before = lost(project, verb, "") if verb == "train" else None
    again = project.run(verb)
    assert again.code == 0, again.text
    assert project.content(verb) == expected
    assert project.leftovers() == whole.leftovers() == []
    row.add(before or lost(project, verb, again.text))
