"""S3 servers of several makes, each a program of its own on loopback."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from meap.processes import end_with_parent

KEY = "S3RVER"  # the one pair of keys that s3rver knows; the others take any

_COMMANDS = {
    "rclone": ["rclone", "serve", "s3", "--addr", "127.0.0.1:{0}", "{folder}"],
    "s3rver": ["s3rver", "--address", "127.0.0.1", "--port", "{0}", "--directory", "{folder}", "--silent"],
    "weed": [
        *("weed", "server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir={folder}", "-s3.port={0}"),
        *("-s3.port.grpc={1}", "-master.port={2}", "-master.port.grpc={3}", "-volume.port={4}"),
        *("-volume.port.grpc={5}", "-filer.port={6}", "-filer.port.grpc={7}", "-master.volumeSizeLimitMB=64"),
        # Each bucket has some volumes of its own; two servers would meet at the ports of the two catalogues.
        *("-volume.max=500", "-s3.port.iceberg=0", "-s3.port.lance=0"),
    ],
}
MAKES = tuple(_COMMANDS)
_SECONDS_TO_START = 60.0


def program_of(make: str) -> str | None:
    """Its path: developers' packages bring two of them as programs beside Python; the system's may be too old."""
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return shutil.which(_COMMANDS[make][0], path=folders)


@contextlib.contextmanager
def serving(make: str, folder: Path) -> Iterator[str]:
    """Start a server that keeps its objects in a folder; yields its address."""
    program = program_of(make)
    assert program is not None, f"{make} is not installed"
    folder.mkdir()
    ports = _free_ports(8)
    url = f"http://127.0.0.1:{ports[0]}"
    with folder.with_suffix(".log").open("w") as log:
        arguments = [part.format(*ports, folder=folder) for part in _COMMANDS[make][1:]]
        start = {"stdout": log, "stderr": log, "cwd": folder.parent, "preexec_fn": _end_with_parent}
        process = subprocess.Popen([program, *arguments], **start)
    try:
        deadline = time.monotonic() + _SECONDS_TO_START
        while not _answers(url):
            assert process.poll() is None, folder.with_suffix(".log").read_text()[-2000:]
            assert time.monotonic() < deadline, f"{make} does not answer"
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()


def _end_with_parent() -> None:
    end_with_parent(signal.SIGKILL)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
