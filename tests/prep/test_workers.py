"""Worker processes, and the one that forks them, end with the command."""

import contextlib
import os
import subprocess
import sys
import time

import psutil

BEGINS_AND_ENDS = """
from meap.prep.executors.local import _workers_from_server
from meap.processes import leave

with _workers_from_server():
    pass
leave(0)
"""


def servers_of(session: int) -> list[int]:
    found = []
    for each in psutil.process_iter(["status", "cmdline"]):
        is_server = "forkserver" in " ".join(each.info["cmdline"] or [])
        with contextlib.suppress(ProcessLookupError):
            if is_server and each.info["status"] != psutil.STATUS_ZOMBIE and os.getsid(each.pid) == session:
                found.append(each.pid)
    return found


def test_a_server_that_is_still_importing_ends_with_its_command(quiet_environment, project_root):
    command = subprocess.Popen(
        [sys.executable, "-c", BEGINS_AND_ENDS], start_new_session=True,
        env=quiet_environment | {"PYTHONPATH": str(project_root)},
    )  # fmt: skip
    assert command.wait(120) == 0
    until = time.monotonic() + 0.5
    while (left := servers_of(command.pid)) and time.monotonic() < until:
        time.sleep(0.02)
    assert left == []
