"""Requests to stop, and processes that end with those that started them."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from meap.train.checkpoints.stopping import NO_SIGNAL, Agreement, StopSignals

ENDED_BY_A_LATER_SIGNAL = """
import os, signal
from meap.train.checkpoints.stopping import StopSignals
signals = StopSignals()
signals.install()
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)
print(signals.received, flush=True)
signals._since -= 60
os.kill(os.getpid(), signal.SIGTERM)
print("still there", flush=True)
"""

# The parent waits for its child; the child tells when it listens, and ends with the parent.
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
child.wait()
"""
CHILD = """
import signal
from meap.processes import end_with_parent
def leave(*_):
    print("left", flush=True)
    raise SystemExit
signal.signal(signal.SIGTERM, leave)
end_with_parent(signal.SIGTERM)
print("listening", flush=True)
while True:
    signal.pause()
"""

# A worker tells when it listens; nobody's signals end it but the end of its trainer.
TRAINER = """
import multiprocessing, os, signal, sys
from meap.processes import obey_parent_alone
def work():
    obey_parent_alone()
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        os.kill(os.getpid(), number)
    print(os.getpid(), flush=True)
    signal.pause()
worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
if sys.argv[1] == "left alone":
    os.kill(os.getpid(), signal.SIGKILL if sys.stdin.readline() else 0)
from meap.processes import end_processes
sys.stdin.readline()
end_processes([worker])
print(worker.exitcode, flush=True)
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)


def test_the_first_signal_is_remembered_and_handlers_are_handed_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    signals = StopSignals()
    assert signals.received == NO_SIGNAL
    signals.install()
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)  # the same request, as launchers repeat it
        assert signals.received == signal.SIGUSR1
    finally:
        signals.release()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before


@pytest.mark.slow
def test_a_later_signal_ends_the_process_at_once():
    done = run(ENDED_BY_A_LATER_SIGNAL)
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert done.stdout == f"{int(signal.SIGTERM)}\n"


@pytest.mark.parametrize("end", ["ended", "left alone"])
def test_a_worker_obeys_nobody_but_its_trainer(end, wait_until):
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, end], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    worker = int(trainer.stdout.readline())
    printed, _ = trainer.communicate("go on\n", timeout=60)
    assert printed == (f"{-signal.SIGKILL}\n" if end == "ended" else "")
    wait_until(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE)


def test_a_child_hears_of_the_end_of_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "listening\n"
    parent.kill()
    assert parent.stdout.read() == "left\n"
    parent.wait()
    parent.stdout.close()


def test_a_rank_alone_hears_itself_at_once():
    agreement = Agreement()
    assert agreement.exchange(NO_SIGNAL) == NO_SIGNAL
    assert agreement.exchange(15) == 15
    assert agreement.settle(NO_SIGNAL) == NO_SIGNAL


WITHOUT_ROWS = """
import os, signal, sys, time
from meap.config.command import report_errors
from meap.processes import leave
from meap.train.checkpoints import stopping

stopping._SECONDS_FOR_ROWS[signal.SIGTERM], stopping._TICK = 0.5, 0.05

def run():
    signals = stopping.StopSignals()
    signals.install()
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    for _ in range(20):  # a step takes its time, and short waits for rows do not count
        with stopping.waiting_for_rows():
            time.sleep(0.05)
        time.sleep(0.05)
    print("stepped", flush=True)
    if sys.argv[1] == "come":
        signals.release()
        return
    with stopping.waiting_for_rows():
        time.sleep(60 if sys.argv[2] == "SIGTERM" else 3)  # a scheduler that warns leaves more time
    signals.release()

leave(report_errors, run)
"""


NO_ROWS_TOLD = """SIGTERM: no rows have come for . s: steps since the last checkpoint are not saved
stopped by SIGTERM: run the same command again to resume
"""


@pytest.mark.parametrize(
    ("rows", "name", "status", "told"),
    [
        ("come", "SIGTERM", 0, ""),
        ("do not come", "SIGTERM", os.EX_TEMPFAIL, NO_ROWS_TOLD),
        ("come late", "SIGUSR1", 0, ""),
    ],
)
def test_a_request_to_stop_does_not_wait_for_rows_that_do_not_come(rows, name, status, told):
    """A launcher killed the run after half a minute, where the store of its data could not be reached."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROWS, rows, name], capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.returncode, done.stdout) == (status, "stepped\n")
    assert re.fullmatch(told, done.stderr), done.stderr


def test_nobody_needs_to_read_that_no_rows_come():
    """Where the terminal is gone, or its disk full, the message would end it in the request's place."""
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", WITHOUT_ROWS, "do not come", "SIGTERM"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout) == (os.EX_TEMPFAIL, "stepped\n")
