"""The agent killed (SIGKILL) at random moments while the broker is stopped and started: no durable verdict is lost."""

import random
import signal
import threading
import time

import pytest
from ledger import Ledger
from line import RunningAgent, make_line
from mosquitto import key

KILLS = 20
SEED = 20261121


def stop_and_start(broker, moments, ended):
    """Stop the broker and start it again, at random moments, until `ended`; leaves it running."""
    while not ended.wait(moments.uniform(0.2, 3.0)):
        broker.stop()
        ended.wait(moments.uniform(0.0, 1.5))
        broker.start()


@pytest.mark.slow
@pytest.mark.broker
def test_twenty_kills_and_a_restless_broker_lose_no_verdict(tmp_path, broker, subscriber):
    camera = {"top": {"kind": "folder", "path": "parts", "loop": True, "interval_s": 0.004}}
    config = make_line(tmp_path, port=broker.port, cameras=camera, mqtt={"replay_per_s": 2000.0})
    moments, ended, ledger = random.Random(SEED), threading.Event(), Ledger()
    restless = threading.Thread(target=stop_and_start, args=(broker, random.Random(SEED + 1), ended))
    restless.start()
    try:
        for kill in range(KILLS):
            with RunningAgent(config) as agent:
                if kill % 5:
                    agent.wait_given(1)  # the others die somewhere in their start
                time.sleep(moments.uniform(0.0, 2.0))
                agent.end(signal.SIGKILL)
            ledger.given.update(map(key, agent.given))
    finally:
        ended.set()
        restless.join(60)
    with RunningAgent(config) as last:
        subscriber.wait_for(lambda s: ledger.given <= s.keys, timeout=60)
        last.wait_given(1)
        assert last.end() == 0, last.log
    ledger.received = subscriber.results
    boots = sorted({each[2] for each in ledger.given})
    assert len(ledger.given) > 1000
    assert len(boots) >= KILLS // 2
    assert boots[-1] - boots[0] <= KILLS  # one more at each start, no more
    assert ledger.missing == []  # every part that was scored has arrived
    assert ledger.disagreeing == []  # those that came twice say the same
    assert ledger.out_of_order == []
    assert ledger.gaps == {}  # stages keep the order, so what was never scored can only be the end of a boot
    assert ledger.duplicates > 0  # otherwise this proved nothing about acknowledgements that were lost
