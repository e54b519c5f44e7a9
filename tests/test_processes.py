"""A command leaves with its status, whatever would hold it up."""

import os
import pty
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from meap import processes
from meap.errors import LostRankError, StoppedError
from meap.processes import ask_store, stopping_by_signals, wait_with_ranks

SWALLOWED = """
import os, signal, sys, time
from meap.config.command import report_errors
from meap.processes import leave

class Asked:
    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        time.sleep(0.5)

def run():
    Asked(getattr(signal, sys.argv[1]))
    Asked(0)  # the second attempt is swallowed too
    time.sleep(60)

leave(report_errors, run)
"""


ENDED = """
import atexit, os, signal, sys
from meap.config.command import report_errors
from meap.errors import MeapError
from meap.processes import leave

class Slow:
    def write(self, text):
        sys.__stderr__.write(text)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(os.getpid(), number)

    def flush(self):
        pass

def run():
    sys.stderr = Slow()
    if sys.argv[1] == "interrupted":
        raise KeyboardInterrupt
    if sys.argv[1] == "failed":
        raise MeapError("no")
    os.kill(os.getpid(), signal.SIGTERM)

atexit.register(print, "cleaned up")
leave(report_errors, run)
"""


@pytest.mark.parametrize(("how", "status"), [("interrupted", 130), ("failed", 1), ("stopped", 75)])
def test_a_launcher_that_ends_its_ranks_does_not_change_how_one_has_ended(how, status):
    """One that was told its end, and was not gone yet, died of the signal, and left shared memory."""
    done = subprocess.run([sys.executable, "-c", ENDED, how], capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout) == (status, "cleaned up\n"), done.stderr


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGHUP", 75), ("SIGINT", 130)])
def test_a_request_to_stop_is_not_lost_where_python_swallows_what_it_raises(name, status):
    """What a signal raises in an object's `__del__` goes nowhere: the command would go on, after a traceback."""
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED, name], capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr


WITHIN_A_HANDLER = """
import os, signal, sys
from meap.config.command import report_errors
from meap.errors import DataError, MeapError
from meap.processes import leave

def run():
    try:
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        [None for _ in range(1000)]
    except (Exception, MeapError) as error:  # as around a library that may raise whatever
        raise DataError(f"the file cannot be read ({error}): copy it again") from error

leave(report_errors, run)
"""


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGHUP", 75), ("SIGINT", 130)])
def test_a_request_to_stop_is_no_failure_of_what_runs(name, status):
    """`meap verify` called a tokenizer damaged, and an evaluation a model, that was being read at that moment."""
    done = subprocess.run(
        [sys.executable, "-c", WITHIN_A_HANDLER, name], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == status, done.stderr
    assert "the file cannot be read" not in done.stderr


REPEATED = """
import os, signal, sys
from meap.config.command import report_errors
from meap.processes import leave

def run():
    try:
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        [None for _ in range(1000)]
    finally:
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))
        [None for _ in range(1000)]
        print("cleaned up")

leave(report_errors, run)
"""


@pytest.mark.parametrize(
    ("names", "status"),
    [
        (("SIGINT", "SIGTERM"), 130),
        (("SIGINT", "SIGINT"), 130),
        (("SIGTERM", "SIGINT"), 75),
        (("SIGUSR1", "SIGTERM"), 75),
    ],
)
def test_a_request_that_a_launcher_repeats_by_another_signal_is_the_first(names, status):
    """Ctrl-C reaches launcher and ranks, and the launcher sends its ranks SIGTERM: a command ended as if to resume."""
    done = subprocess.run(
        [sys.executable, "-c", REPEATED, *names], capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.returncode, done.stdout) == (status, "cleaned up\n"), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


IGNORED = """
import os, signal
from meap.config.command import report_errors
from meap.processes import leave

signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
leave(report_errors, lambda: os.kill(os.getpid(), signal.SIGHUP))
"""


def test_a_command_under_nohup_goes_on():
    assert subprocess.run([sys.executable, "-c", IGNORED], check=False, timeout=50).returncode == 0


HUNG_UP = """
import os, sys, time
from meap.config.command import report_errors
from meap.processes import leave

def run():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("what nobody reads", flush=True)
        open(sys.argv[1], "w").close()

leave(report_errors, run)
"""


def test_a_command_whose_terminal_is_closed_cleans_up(tmp_path):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", HUNG_UP, str(tmp_path / "cleaned-up")])
    assert os.read(terminal, 5) == b"begun"
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    assert (tmp_path / "cleaned-up").exists()


CLOSED = """
import os, sys
from meap.config.command import report_errors
from meap.processes import leave

def run():
    print("what nobody reads")
    print("nor this", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        assert file.fileno() > 2
        os.system("echo of a library")
        file.write("whole")

leave(report_errors, run)
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(tmp_path, closed):
    """Every command ended in a traceback, after its work was done; and a file took the number of what is printed."""
    words = shlex.join([sys.executable, "-c", CLOSED, str(tmp_path / "file")])
    done = subprocess.run(
        ["sh", "-c", f"exec {words} {closed}"], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "whole"


RANKS = """
import os, signal, sys, time
import torch.distributed as distributed
from meap.config.command import report_errors
from meap.data.ranks import meet_neighbours
from meap.errors import DataError
from meap.processes import leave

def run():
    distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/ranks", rank=rank, world_size=2)
    meet_neighbours()
    open(f"{sys.argv[1]}/{rank}", "w").close()
    if rank == 1 and sys.argv[2] == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 1 and sys.argv[2] == "finishes":
        return
    if rank == 1 and sys.argv[2] == "fails":
        raise DataError("a shard is damaged")
    if rank == 0 and sys.argv[2] == "is stopped alone":
        distributed.barrier()
    time.sleep(60)

pids = []
for rank in range(2):
    if (pid := os.fork()) == 0:
        os.environ["RANK"] = str(rank)
        leave(report_errors, run)
    pids.append(pid)
while len(os.listdir(sys.argv[1])) < 3:
    time.sleep(0.01)
if sys.argv[2] == "is stopped alone":
    os.kill(pids[1], signal.SIGTERM)
    print(*(os.waitstatus_to_exitcode(os.waitpid(pids.pop(), 0)[1]) for _ in range(2)))
if sys.argv[2] in {"fails", "finishes", "is killed"}:
    print(os.waitstatus_to_exitcode(os.waitpid(pids.pop(), 0)[1]))
for pid in pids:  # as a launcher does
    os.kill(pid, signal.SIGTERM)
for pid in pids:
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(
    ("what", "statuses", "told"),
    [
        (
            "fails",
            ["1", "1"],
            "error: rank 0 ends, since another one has failed: look for the reason among the messages of that rank",
        ),
        (
            "is killed",
            ["-9", "1"],
            "error: rank 0 ends, since another one has failed: look for the reason among the messages of that rank",
        ),
        ("finishes", ["0", "75"], "stopped by SIGTERM: run the same command again to resume"),
        ("is stopped", ["75", "75"], "stopped by SIGTERM: run the same command again to resume"),
        ("is stopped alone", ["75", "75"], "stopped by SIGTERM: run the same command again to resume"),
    ],
)
def test_a_rank_that_is_ended_since_another_failed_has_failed(
    warm_python, project_root, tmp_path, what, statuses, told
):
    """Its status was that of a run to resume (75), which launchers passed on: such a run was started again for ever."""
    done = subprocess.run(
        [warm_python, "-c", RANKS, str(tmp_path), what],
        env=os.environ | {"PYTHONPATH": str(project_root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.stdout.split() == statuses, done.stderr
    assert done.stderr.splitlines()[-1:] == [told]


def test_a_signal_while_python_looks_for_the_temporary_folder_leaves_no_file_there(monkeypatch, tmp_path):
    unlink = os.unlink

    def late(path: str) -> None:
        signal.raise_signal(signal.SIGTERM)
        unlink(path)

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(os, "unlink", late)
    with pytest.raises(StoppedError), stopping_by_signals():
        tempfile.gettempdir()
    assert list(tmp_path.iterdir()) == []


def test_the_exit_of_composers_handlers_is_the_request_that_they_were_given():
    """They replace ours while Composer is imported."""
    for code, expected in ((143, StoppedError), (130, KeyboardInterrupt), (2, SystemExit)):
        with pytest.raises(expected), stopping_by_signals():
            raise SystemExit(code)


def test_an_error_of_a_library_in_the_place_of_a_request_is_the_request():
    def transfer() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            Path("/there/is/none").read_text()

    with pytest.raises(StoppedError, match="stopped by SIGTERM"), stopping_by_signals():
        transfer()


def test_a_signal_that_comes_while_a_failure_is_told_does_not_hide_it(monkeypatch):
    def told_late(_: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(processes, "_told_by_ranks", told_late)
    with pytest.raises(ValueError, match="the reason"), stopping_by_signals():
        raise ValueError("the reason")


TRACKED = """
import os, signal, sys, time
from multiprocessing.shared_memory import SharedMemory
from meap.processes import start_tracker

os.setsid()
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, lambda *_: None)
start_tracker()
before = SharedMemory(create=True, size=1)
os.killpg(0, getattr(signal, sys.argv[1]))
time.sleep(0.3)
after = SharedMemory(create=True, size=1)
for segment in (before, after):
    segment.close()
    segment.unlink()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT"])
def test_a_signal_to_the_group_leaves_the_tracker_of_shared_memory_alone(name):
    """Slurm sends SIGUSR1 to every process of a step. A tracker that it ends makes the next one print tracebacks."""
    done = subprocess.run(
        [sys.executable, "-c", TRACKED, name], capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


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
elif what == "files":
    import atexit, resource
    atexit.register(open, os.devnull)  # as torch's imports do
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
print("the last word", end="")
leave(lambda: 3)
"""


@pytest.mark.parametrize(
    "what", ["process", pytest.param("thread", marks=pytest.mark.slow), "signals", "files", "nothing"]
)
def test_a_command_leaves_with_its_status(what):
    done = subprocess.run(
        [sys.executable, "-c", HELD_UP, what], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "the last word", "")


WITHOUT_FILES = """
import os, resource, sys, threading
from meap.processes import require_files_for_ranks, wait_with_ranks

free = os.open(os.devnull, os.O_RDONLY)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, free + 2))
try:
    require_files_for_ranks(is_loaded=True) if sys.argv[1] == "before" else wait_with_ranks(threading.Event().wait)
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("when", ["before", pytest.param("while it waits", marks=pytest.mark.slow)])
def test_a_rank_that_may_open_no_more_files_does_not_wait_for_the_others(when):
    """Torch's store tries to connect again, ever more seldom, for half an hour; gloo ends the process."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FILES, when], env=os.environ | {"WORLD_SIZE": "2"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "[Errno 24] Too many open files\n", "")


def test_a_wait_for_other_ranks_has_an_end():
    """torch's own time-outs do not hold where a stranger accepts the connection, and is silent."""
    with pytest.raises(LostRankError, match=r"^rank 0 waited for the others for 0.5 s in vain: see that all were"):
        wait_with_ranks(Event().wait, seconds=0.5)


STOPPED = """
import atexit, os, signal
from meap.processes import leave

atexit.register(print, "cleaned up", flush=True)
atexit.register(os.kill, os.getpid(), signal.SIGSTOP)
leave(lambda: 3)
"""


@pytest.mark.slow
def test_a_command_that_stands_still_while_it_leaves_cleans_up_when_it_goes_on():
    """What it waits to the end of its exit handlers counted while it was stopped: locks and folders were left."""
    command = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
    os.waitpid(command.pid, os.WUNTRACED)
    time.sleep(8)  # longer than it waits
    command.send_signal(signal.SIGCONT)
    assert (command.communicate(timeout=50)[0], command.returncode) == ("cleaned up\n", 3)


def test_a_wait_for_other_ranks_uses_the_gpu_of_this_one(monkeypatch):
    """A thread begins with GPU 0, and NCCL refuses ranks that share one: no run of several GPUs could start."""
    chosen = dict[int, int]()
    here = SimpleNamespace(
        is_initialized=lambda: True,
        current_device=lambda: 3,
        set_device=lambda device: chosen.update({threading.get_ident(): device}),
    )
    monkeypatch.setitem(sys.modules, "torch.cuda", here)
    assert chosen[wait_with_ranks(threading.get_ident)] == 3
    assert threading.get_ident() not in chosen


def test_nobody_asks_again_while_the_store_stands_still(monkeypatch):
    """A thread was left for each question; a container allows few thousand."""
    answer = Event()
    monkeypatch.setattr(processes, "_SECONDS_TO_ANSWER", 0.01)
    monkeypatch.setattr(processes, "_asking", None)
    monkeypatch.setattr(processes, "_store_of_ranks", lambda: answer)
    before = threading.active_count()
    assert [ask_store(Event.wait) for _ in range(5)] == [None] * 5
    assert threading.active_count() == before + 1
    answer.set()
    processes._asking.join()
    assert ask_store(Event.is_set)


OPEN = """
import gc, socket
from meap.processes import _close_connections

server = socket.create_server(("127.0.0.1", 0))
clients = [socket.create_connection(server.getsockname())]
gc.collect()
gc.freeze()  # as training does
clients += [socket.create_connection(server.getsockname())]
other = socket.create_connection(server.getsockname())
of_torch = other.detach()
_close_connections(but=0)
for client, connection in zip(clients, [server.accept()[0] for _ in clients]):
    client.send(b"open")
    assert connection.recv(4) == b"open"
assert server.accept()[0].recv(4) == b""
"""


def test_connections_of_libraries_stay_open_whenever_they_were_opened():
    done = subprocess.run([sys.executable, "-c", OPEN], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
