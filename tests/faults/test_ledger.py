"""The zero-loss ledger in short: every trouble that the proxy, the broker and SIGKILL make, at once."""

import random

import pytest
from ledger import Line, account

pytestmark = [pytest.mark.broker, pytest.mark.slow]


def test_triggers_verdicts_stored_and_verdicts_received_are_the_same(tmp_path):
    line = Line(tmp_path, 50.0, random.Random(20261121))
    line.run(1500, 2)
    numbers = account(line)
    assert numbers["balances"], f"{numbers} {line.ledger.missing[:5]} {line.ledger.gaps} {line.log}"
    assert numbers["parts triggered"] >= 1500
    assert numbers["received late (historical)"] > 0
    assert numbers["verdict unknown"] > 0  # the files that can't be read
    assert numbers["trouble: agent killed"] == 2
    assert len(line.troubles) >= 5, line.troubles
