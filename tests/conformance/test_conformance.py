"""What passed must go on passing: every seventh passing case here, all of them in ``make conformance``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import cases
import table
from sweep import sweep


def test_the_table_is_that_of_the_results() -> None:
    assert table.TABLE.read_text() == table.markdown(table.read())


def test_every_case_has_a_result() -> None:
    assert set(table.read()) == set(cases.names())


def test_no_pass_is_lost() -> None:
    passing = [name for name, row in table.read().items() if row["dlcomp"] == "pass"]
    found = sweep(passing[::7], "dlcomp")
    assert {name: verdict for name, verdict in found.items() if verdict[0] != "pass"} == {}
