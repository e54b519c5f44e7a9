"""A `python` that has imported everything already: forked in milliseconds, where each new one takes seconds to load.

`start` gives the path of a program that is called as `python` is, with -c, -m, or a script. It hands its arguments,
folder, environment and files to a server, which forks; signals go the other way round, and the status comes back. The
server is one for all processes of pytest, starts with the first call, and ends when pytest is gone. For what a command
does; how it starts, and what it loads, takes a `python` of its own to see.
"""

import atexit
import contextlib
import gc
import json
import os
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

IMPORTED = (
    "meap.processes",  # before torch, as in every entry point
    *("torch", "torch.utils.tensorboard", "composer", "streaming", "transformers", "datatrove.executor", "boto3"),
    *("meap.train.trainer", "meap.train.fitting", "meap.train.attention", "meap.data", "meap.prep.job", "meap.evals"),
)
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LONGEST_MESSAGE = 1 << 20


def start(folder: Path, *, without: str = "-") -> str:
    """Return the program's path; the server is started unless it serves this folder already.

    What begins with `without` is not imported: commands have their own of it.
    """
    from filelock import FileLock

    program, address = folder / "warm-python", folder / "warm.socket"
    with FileLock(folder / "warm.lock"):
        if not program.exists():
            owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
            log = (folder / "warm.log").open("w")
            environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_"))}
            with log:
                subprocess.run(
                    [sys.executable, __file__, str(address), str(owner), without],
                    env=environment | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True,
                )  # fmt: skip
            program.write_text(f"#!{sys.executable} -IS\n{CLIENT.replace('ADDRESS', repr(str(address)))}")
            program.chmod(0o755)
    return str(program)


CLIENT = f"""
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect(ADDRESS)
server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, {LONGEST_MESSAGE})
order = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
for number in {[int(each) for each in PASSED_ON]}:
    signal.signal(number, lambda number, _: server.send(str(int(number)).encode()))
socket.send_fds(server, [json.dumps(order).encode()], [0, 1, 2])
status = int(server.recv(100) or -9)
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def serve(address: str, owner: int, without: str) -> None:
    """Fork for every client until the owner is gone."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)
    if os.fork():
        os._exit(0)  # who has started the server may go on, and call it
    os.setsid()
    for name in [name for name in IMPORTED if not name.startswith(without)]:
        __import__(name)
    import torch
    from composer.utils.collect_env import get_composer_env_dict

    # After a fork torch makes its pool of threads anew at the first need, unguarded: a thread of autograd that needs it
    # in that moment finds none ("Invalid thread pool!") and aborts. So the need comes while there is one thread.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(torch.get_num_threads()))
    gc.freeze()  # a collection in those who are forked would copy what it looks at
    get_composer_env_dict()  # every Trainer asks, which takes a second the first time
    clients: dict[int, socket.socket] = {}
    wake, woken = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    while Path(f"/proc/{owner}").exists():
        for key, _ in selector.select(timeout=1):
            if key.fileobj is woken:
                woken.recv(4096)
            elif key.fileobj is listener:
                client = listener.accept()[0]
                message, files, _, _ = socket.recv_fds(client, LONGEST_MESSAGE, 3)
                signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until it has an interpreter's handlers
                if not (pid := os.fork()):
                    for each in (selector, listener, wake, woken, client, *clients.values()):
                        each.close()
                    become(json.loads(message), files)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
                for each in files:
                    os.close(each)
                clients[pid] = client
                selector.register(client, selectors.EVENT_READ, pid)
            elif key.data in clients:  # a signal, or the end of a client that was killed
                number = key.fileobj.recv(100)  # pyright: ignore[reportAttributeAccessIssue]
                os.kill(key.data, int(number or signal.SIGKILL))
                if not number:
                    selector.unregister(key.fileobj)
        for pid in list(clients):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                client = clients.pop(pid)
                with contextlib.suppress(OSError):  # it may have been killed
                    client.send(str(os.waitstatus_to_exitcode(status)).encode())
                with contextlib.suppress(KeyError):
                    selector.unregister(client)
                client.close()
    os._exit(0)


def become(order: dict[str, Any], files: list[int]) -> None:
    """Be the process that was asked for, from the interpreter's start to its end; never returns."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if Path(order["arguments"][0]).name != "composer":  # what it imports, here already, sets the handlers that it needs
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, each in enumerate(files):
        os.dup2(each, number)
        os.close(each)
    # What the server has remembers whether it could seek.
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, "w" if number else "r", closefd=False)  # noqa: SIM115
        for number in range(3)
    )
    sys.stderr.reconfigure(line_buffering=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    if "PYTHON_EXEC" in os.environ:  # what torchrun starts its ranks with; Composer's launcher takes its own Python
        sys.executable = os.environ["PYTHON_EXEC"]
    sys.path[:0] = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    random.seed()
    tempfile.tempdir = None
    status = 0
    try:
        _run(order["arguments"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001  nothing may go on into the loop of the server
        traceback.print_exc()
        status = 1
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(status & 0xFF)  # an interpreter would take all modules down, which takes seconds


def _run(arguments: list[str]) -> None:
    if arguments[0] == "-u":
        sys.stdout.reconfigure(write_through=True)  # pyright: ignore[reportAttributeAccessIssue]
        del arguments[:1]
    if arguments[0] == "-W":
        warnings.simplefilter(arguments[1])  # pyright: ignore[reportArgumentType]
        del arguments[:2]
    if arguments[0] == "-c":
        sys.argv[:] = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    elif arguments[0] == "-m":
        sys.argv[:] = arguments[1:]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = arguments
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
