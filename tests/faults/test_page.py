"""The committed page is one that this suite wrote."""

import re

import pytest

from faults.project import FULL, PAGE, RECORDED, Row, page
from faults.rows import HEADINGS, ROWS


@pytest.mark.skipif(FULL, reason="this run writes another page")
def test_the_page_has_the_rows_of_the_suite(root):
    text = (root / PAGE).read_text()
    rows = re.findall(r"^\| (.+) \| (\d+) \| (.+) \|$", text, re.M)
    assert [what for what, _, _ in rows] == list(ROWS.values())
    assert all(int(count) > 0 and lost.strip() for _, count, lost in rows)
    assert re.findall(r"^## (.+)$", text, re.M) == list(HEADINGS.values())
    counts = dict(zip(ROWS, (int(count) for _, count, _ in rows), strict=True))
    assert sum(counts[key] for key in ROWS if key.startswith("kill_")) == 50
    assert counts["config_hand"] + counts["config_random"] >= 200


def test_every_row_has_a_test_and_every_test_a_row(root):
    tests = "".join(file.read_text() for file in (root / "tests/faults").glob("test_*.py"))
    marked = set(re.findall(r'mark\.fault\("(\w+)"\)', tests)) | {
        f"kill_{verb}" for verb in ("generate", "train", "evaluate", "judge", "tabulate")
    }
    assert marked == set(ROWS)
    assert {key.partition("_")[0] for key in ROWS} == set(HEADINGS)


@pytest.mark.parametrize("outcomes", [{"nothing": 3}, {"nothing": 2, "a shard": 1}])
def test_the_page_says_how_often_what_was_lost(monkeypatch, outcomes):
    for key in ROWS:
        monkeypatch.setitem(RECORDED, key, Row(key))
    for lost, count in outcomes.items():
        RECORDED["kill_train"].add(lost, count)
    (line,) = [line for line in page().splitlines() if ROWS["kill_train"] in line]
    assert line.endswith("| 3 | nothing |" if len(outcomes) == 1 else "nothing (2); a shard (1) |")
