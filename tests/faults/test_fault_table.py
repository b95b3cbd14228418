"""docs/faults.md has a row for each of the 28 faults, and every test that it names is there."""

import ast
import re

import pytest
from line import ROOT

PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line)]


def test_each_fault_has_its_row():
    assert [int(row.split("|")[1]) for row in ROWS] == list(range(1, 29))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_the_tests_that_a_row_names_are_there(row):
    named = re.findall(r"`(\w+)/(\w+)::(\w+)`", row)
    assert named
    for folder, file, name in named:
        source = (ROOT / "tests" / folder / f"test_{file}.py").read_text(encoding="utf-8")
        functions = {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
        assert f"test_{name}" in functions, f"{folder}/test_{file}.py has no test_{name}"
