"""A user's folder: the entry points beside text of one's own, and commands typed as the README has them."""

import gzip
import json
import os
import pydoc_data.topics
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.small_tokenizer import write_small_tokenizer

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent

OWN_WORDS = re.compile(
    r"\S+( \w+| +run \S+)?: loading .* \.\.\.$|[\d,]+ (documents|conversations|records) \||stopped by SIGTERM|"
    r"Waiting up to 30 seconds for all training processes"  # Composer's launcher, whenever its ranks have ended
)
SECONDS_TO_LEAVE = 10
"""Between the last word of a command and its end."""


@dataclass
class Home:
    """The folder that commands run in."""

    path: Path
    environment: dict[str, str]

    def start(self, command: str) -> "Command":
        """Begin a command line of the README."""
        program, *arguments = shlex.split(command)
        if program == "meap":  # of this folder, which need not be the installed one
            program, arguments = "python", ["-m", "meap", *arguments]
        log = self.path / f"command-{len(list(self.path.glob('command-*.out')))}"
        with log.with_suffix(".out").open("w") as output, log.with_suffix(".err").open("w") as errors:
            process = subprocess.Popen(
                [str(PROGRAMS / program), *arguments],
                cwd=self.path,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        return Command(command, process, log, self)

    def run(self, command: str, *, status: int = 0) -> str:
        """Run a command line to its end; returns what it has printed."""
        return self.start(command).end(status)


@dataclass
class Command:
    """A command under way, with all that it has started."""

    line: str
    process: subprocess.Popen[bytes]
    log: Path
    home: Home

    @property
    def printed(self) -> str:
        return self.log.with_suffix(".out").read_text() + self.log.with_suffix(".err").read_text()

    def wait_for(self, text: str) -> None:
        """Return once the command has printed it."""
        while text not in self.printed:
            assert self.process.poll() is None, f"{self.line} ended without {text!r}:\n{self.printed}"
            time.sleep(0.02)

    def interrupt(self, number: signal.Signals) -> None:
        """Send a signal to the process that was started, and to nobody else."""
        os.kill(self.process.pid, number)

    def end(self, status: int) -> str:
        """Wait for the end, which must come by itself, soon, with the status, and leave nothing."""
        self.process.wait(timeout=300)
        silence = time.time() - max(self.log.with_suffix(each).stat().st_mtime for each in (".out", ".err"))
        assert self.process.returncode == status, f"{self.line} ended with {self.process.returncode}:\n{self.printed}"
        # A machine with more to do than it has cores takes as much longer as everything else there does.
        allowed = SECONDS_TO_LEAVE * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        assert silence < allowed, f"{self.line} ended {silence:.0f} s after its last word:\n{self.printed}"
        deadline = time.monotonic() + SECONDS_TO_LEAVE  # Python's tracker sees that it is alone
        while alive := self.members():
            assert time.monotonic() < deadline, f"{self.line} has left {alive}"
            time.sleep(0.02)
        left = [path.name for path in Path(self.home.environment["TMPDIR"]).iterdir()]
        assert [name for name in left if not name.startswith("torchinductor_")] == [], self.line  # torch's own cache
        # What is said beside results is the project's own, not what libraries have to say.
        said = self.log.with_suffix(".err").read_text().splitlines()
        assert [line for line in said if not OWN_WORDS.match(line)] == [], self.line
        return self.printed

    def members(self) -> list[str]:
        """Command lines of what is left of its session."""
        found = []
        for process in psutil.process_iter(["status", "cmdline"]):
            try:
                if os.getsid(process.pid) == self.process.pid and process.info["status"] != psutil.STATUS_ZOMBIE:
                    found.append(shlex.join(process.info["cmdline"] or []))
            except ProcessLookupError:
                continue
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    path = tmp_path_factory.mktemp("home")
    for name in ("dataprep", "recipes", "yamls"):
        (path / name).symlink_to(ROOT / name)
    temporary = tempfile.mkdtemp()  # short: loader workers make sockets there
    ours = ("RANK", "WORLD_", "LOCAL_", "NODE_RANK", "MASTER_", "AWS_", "S3_", "TORCHINDUCTOR_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"TMPDIR": temporary, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before = shared_memory()
    yield Home(path, environment)
    assert shared_memory() <= before
    shutil.rmtree(temporary)


def shared_memory() -> set[str]:
    """Segments of processes that have ended: a number that only this machine's runs have."""
    alive = {str(pid) for pid in psutil.pids()}
    return {
        path.name
        for path in Path("/dev/shm").iterdir()
        if path.name.startswith("torch_") and path.name.split("_")[1] not in alive
    }


@pytest.fixture(scope="session")
def own_texts() -> list[str]:
    """Real English: the topics of Python's own help, half a megabyte."""
    return [text for _, text in sorted(pydoc_data.topics.topics.items())]


@pytest.fixture(scope="session")
def write_own_tokenizer(own_texts: list[str]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_small_tokenizer(folder, own_texts, vocab_size=1000)

    return write


def write_gzip(path: Path, records: list[dict[str, object]]) -> None:
    """Records as JSON lines, compressed."""
    path.parent.mkdir(exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
