"""What must not grow with the length of a rollout or the size of a store runs within a limit."""

import json
import re

import pytest

from faults.project import DATASET, EXPERIMENT, FULL, Project

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.slow]

STEPS = 100_000 if FULL else 10_000
# bytes beyond those of the libraries, which come to about 400 MB
ROLLOUT = 768 * 2**20
STORE = 128 * 2**20 if FULL else 64 * 2**20
TIMES = 10 if FULL else 3
