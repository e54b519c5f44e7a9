"""Loader workers that cannot be started, or cannot hand over what they have read, as files run out."""

import re
import subprocess
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NO_MORE_FILES = """
    import os, resource
    import torch
    from meap.data.loader import RowLoader, start_worker

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, row):
            if row == 8:
                opened = max(map(int, os.listdir("/proc/self/fd")))
                resource.setrlimit(resource.RLIMIT_NOFILE, (opened, opened))
            return torch.full((1000,), row)

    for batch in RowLoader(Rows(), batch_size=8, num_workers=1, worker_init_fn=start_worker):
        print(int(batch[0, 0]), flush=True)
"""

NO_FILES_FOR_WORKERS = """
    import os, resource, sys
    import torch
    from meap.data.loader import RowLoader, start_worker

    loader = RowLoader(torch.arange(64), batch_size=8, num_workers=2, worker_init_fn=start_worker)
    opened = max(map(int, os.listdir("/proc/self/fd")))
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + int(sys.argv[1]), most))
    try:
        iter(loader)
    except OSError as error:
        print(error)
    else:
        print("enough")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))  # what ends the interpreter may open files
"""


ONE_FAILS_AND_ONE_WAITS = """
    import threading
    import torch
    from meap.data.loader import RowLoader, start_worker

    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self):
            if torch.utils.data.get_worker_info().id == 0:
                threading.Event().wait()  # for the other one, as in streaming's barrier
            raise OSError(24, "Too many open files")

    loader = RowLoader(Rows(), batch_size=8, num_workers=2, persistent_workers=True, worker_init_fn=start_worker)
    try:
        next(iter(loader))
    except OSError as error:
        print("Too many open files" in str(error))
"""


A_WORKER_FAILS_WHILE_IT_IS_LET_GO = """
    import os, signal, threading
    import torch
    from meap.data.loader import RowLoader, start_worker

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, row):
            if row:
                threading.Event().wait()
            return torch.zeros(1)

    rows = iter(RowLoader(Rows(), batch_size=1, num_workers=1, worker_init_fn=start_worker))
    next(rows)
    worker = rows._workers[0]
    join = worker.join
    def fail_as_it_is_waited_for(timeout=None):
        if worker.is_alive():
            os.kill(worker.pid, signal.SIGKILL)
        join(timeout)
    worker.join = fail_as_it_is_waited_for
    del rows
    print("gone")
"""


STOPPED_AS_WORKERS_START = """
import multiprocessing.context as context, os, signal, sys
import torch
from meap.config.command import report_errors
from meap.data.loader import RowLoader, start_worker
from meap.processes import leave

def run():
    given = torch.arange(64)
    loader = RowLoader(given, batch_size=8, num_workers=2, worker_init_fn=start_worker, multiprocessing_context="fork")
    started, start = [], context.ForkProcess.start

    def signalled(process):
        started.append(process)
        if len(started) == 2:
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))
            if sys.argv[2] == "at once":  # as where another thread gets it
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
        start(process)

    context.ForkProcess.start = signalled
    list(loader)

leave(report_errors, run)
"""


def run_python(warm_python, environment, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [warm_python, "-c", textwrap.dedent(code), *arguments],
        cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, check=False,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("files", [2, 6, 10, 14, 18])
def test_workers_that_cannot_be_started_are_one_error_and_none_is_left(warm_python, quiet_environment, files):
    ran = run_python(warm_python, quiet_environment, NO_FILES_FOR_WORKERS, str(files))
    # One that could be started may say that it cannot hand over its first batch.
    told = [line for line in ran.stderr.splitlines() if "a loader worker cannot hand over its batches" not in line]
    assert (ran.returncode, told) == (0, [])
    assert ran.stdout.strip() in {"[Errno 24] Too many open files", "enough"}
    assert files > 6 or "Too many" in ran.stdout


def test_a_worker_that_may_open_no_more_files_says_so_instead_of_dropping_a_batch(warm_python, quiet_environment):
    ran = run_python(warm_python, quiet_environment, NO_MORE_FILES)
    assert ran.returncode == 1
    given = ran.stdout.split()
    assert given == [str(row) for row in range(0, 64, 8)][: len(given)], "files that are closed let others be opened"
    assert "Too many open files" in ran.stderr
    assert re.search(
        r"Caught \w+ in (the loader|DataLoader) worker"  # it could not be shared, or not be sent
        r"|error: a loader worker cannot hand over its batches \(.*Too many open files",  # or not be fetched
        ran.stderr,
    )
    assert "in _serve" not in ran.stderr


@pytest.mark.slow
def test_an_error_of_one_worker_does_not_wait_for_another_one_that_waits_for_it(warm_python, quiet_environment):
    """torch keeps it until the batches before it have come."""
    ran = run_python(warm_python, quiet_environment, ONE_FAILS_AND_ONE_WAITS)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "True\n", "")


def test_a_worker_that_fails_while_it_is_no_longer_needed_is_no_error(warm_python, quiet_environment):
    ran = run_python(warm_python, quiet_environment, A_WORKER_FAILS_WHILE_IT_IS_LET_GO)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "gone\n", "")


@pytest.mark.parametrize("when", ["later", "at once"])
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_while_workers_start_is_no_traceback(warm_python, quiet_environment, name, status, when):
    ran = run_python(warm_python, quiet_environment, STOPPED_AS_WORKERS_START, name, when)
    assert ran.returncode == status, ran.stderr
    assert re.fullmatch(r"(stopped by SIGTERM|interrupted): .*\n", ran.stderr), ran.stderr
