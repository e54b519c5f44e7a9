"""The product's entry points as a user starts them, each in a process that has imported what it needs already.

Imports take as long as hundreds of steps: processes are forked from one that has done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import threading
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from meap.errors import MeapError
from meap.processes import end_with_parent

__all__ = ["ROOT", "run_command_line", "share_the_machine", "stop_commands"]

ROOT = Path(__file__).resolve().parent.parent.parent
SERVER = multiprocessing.get_context("forkserver")
IMPORTED = [
    *("datatrove.executor", "meap.prep.job", "meap.train.trainer", "meap.train.fitting", "meap.train.start"),
    *("meap.evals.hugging_face", "meap.evals.runner", "meap.evals.page"),
]
ENVIRONMENT = {
    # Runs share the machine: threads of each beyond its part of the cores only get in each other's way.
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Who looks for GPUs while importing asks the driver's library, not CUDA, which does not survive a fork.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
_running: set[BaseProcess] = set()
_is_stopping = threading.Event()
_asking = threading.Lock()
"""Held while multiprocessing reads how processes ended: to start one, it looks at all of them.

The status can be read once. Of two threads that read it together, the later one took an exit for a lost server (255).
"""


def share_the_machine() -> None:
    """Set up the processes to come; call it before the first."""
    os.environ |= ENVIRONMENT | os.environ
    SERVER.set_forkserver_preload(IMPORTED)


def run_command_line(output: Path, script: str, *arguments: str) -> None:
    """Run an entry point; what it prints goes to a file.

    Raises:
        MeapError: It failed; with its last line.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    has_begun, begins = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=_run_script, args=(begins, output, script, *arguments))
    with _asking, has_begun:
        if _is_stopping.is_set():
            raise MeapError("the experiment was stopped")
        process.start()
        _running.add(process)
        begins.close()
        has_begun.poll(None)
    try:
        wait([process.sentinel])
    except BaseException:  # a signal, where this is the main thread
        process.terminate()
        wait([process.sentinel])
        raise
    finally:
        with _asking:
            process.join()
            _running.discard(process)
    if process.exitcode:
        *_, last = output.read_text(encoding="utf-8").splitlines() or [""]
        raise MeapError(
            f"{script} ended with status {process.exitcode}: {last.removeprefix('error: ')} (all it printed: "
            f"{output}); the same command goes on from here"
        )


def stop_commands() -> None:
    """Ask all that run to save and end, and start no more."""
    _is_stopping.set()
    with _asking:
        for process in _running:
            process.terminate()


def _run_script(begins: Connection, output: Path, script: str, *arguments: str) -> None:
    import torch

    # Importing Composer sets a handler that raises SystemExit, which what runs in a fork may swallow.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    begins.close()  # from here on it may be told to stop
    end_with_parent(signal.SIGTERM)  # the server ends with the experiment, which may be killed
    with output.open("a", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.argv = [str(ROOT / script), *arguments]
    if torch.cuda._is_in_bad_fork():  # an import has touched CUDA all the same
        os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606
    runpy.run_path(sys.argv[0], run_name="__main__")
