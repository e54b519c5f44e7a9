"""A command leaves with its status, whatever would hold it up."""

import subprocess
import sys

import pytest

HELD_UP = """
import multiprocessing, os, signal, sys, threading
from meap.processes import leave

def hang():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    threading.Event().wait()

ready = multiprocessing.get_context("fork").Event()
what = sys.argv[1]
if what == "process":
    multiprocessing.get_context("fork").Process(target=hang, daemon=True).start()
    ready.wait()
elif what == "thread":
    threading.Thread(target=threading.Event().wait).start()
elif what == "signals":
    import atexit
    atexit.register(os.kill, os.getpid(), signal.SIGTERM)
print("the last word", end="")
leave(3)
"""


@pytest.mark.parametrize("what", ["process", pytest.param("thread", marks=pytest.mark.slow), "signals", "nothing"])
def test_a_command_leaves_with_its_status(what):
    done = subprocess.run(
        [sys.executable, "-c", HELD_UP, what], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "the last word", "")
