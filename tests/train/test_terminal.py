"""How commands are stopped, and what they say then."""

import subprocess
import sys
import time

import pytest
import typer

from train.verbs.terminal import said_plainly, stopped_training

STOPPED_IN_A_CALLBACK = """
import gc, os, signal, sys, time
from train.verbs.terminal import said_plainly, stop_on_signals

def callback(phase, info):
    gc.callbacks.remove(callback)
    os.kill(os.getpid(), signal.{signal})
    time.sleep(0)

stop_on_signals()
with said_plainly("Stopped."):
    gc.callbacks.append(callback)
    gc.collect()
    for _ in range(100):
        time.sleep(0.2)
    print("went on to its end")
"""


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
def test_a_stop_that_comes_while_the_garbage_collector_calls_back_is_not_lost(signal):
    started = time.monotonic()
    words = [sys.executable, "-c", STOPPED_IN_A_CALLBACK.format(signal=signal)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr.splitlines()[0]) == ("", "Stopped.")
    assert done.returncode == 1
    assert time.monotonic() - started < 15


def test_other_exceptions_that_python_drops_are_still_told():
    words = "import gc; from train.verbs.terminal import stop_on_signals; stop_on_signals()\n"
    words += "class Bad:\n    def __del__(self): raise ValueError('from a destructor')\nBad()"
    done = subprocess.run([sys.executable, "-c", words], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert "ValueError: from a destructor" in done.stderr


def test_a_stopped_training_says_what_there_is_to_go_on_from(tmp_path, capsys):
    out = tmp_path / "run"

    def said() -> str:
        with pytest.raises(typer.Exit) as stopped, said_plainly(stopped_training(out)):
            raise KeyboardInterrupt
        assert stopped.value.exit_code == 1
        return capsys.readouterr().err

    assert said() == "Stopped; nothing was written.\n"
    (out / "checkpoints").mkdir(parents=True)
    (out / "config.yaml").touch()
    (out / "checkpoints" / "step_8.orbax-checkpoint-tmp").mkdir()
    assert said() == "Stopped before the first checkpoint. The same command with --resume starts it anew.\n"
    (out / "checkpoints" / "step_8").mkdir()
    assert said() == "Stopped. The same command with --resume goes on from the last checkpoint.\n"
