"""Entry points silence what nobody can act upon; users' own warnings, and everything on request, stay."""

import subprocess
import sys

PROBE = """
import logging, sys, warnings

def run():
    library = logging.getLogger("of a library")
    library.addHandler(logging.FileHandler("/dev/full"))
    library.propagate = False
    library.warning("on a full disk")
    warnings.warn("FSDP2 Config/APIs are experimental and subject to heavy changes", UserWarning)
    warnings.warn("\\n            The warmup duration is 0. If you", UserWarning)
    warnings.warn("one of the user's own", UserWarning)

import numpy  # which has filters of its own
before = warnings.filters[:]
import meap.noise, meap.masking, meap.packing, meap.extras
assert warnings.filters == before
from meap.config.command import report_errors
sys.exit(report_errors(run))
"""


def shown(*options: str) -> list[str]:
    done = subprocess.run([sys.executable, *options, "-c", PROBE], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    told = [line.partition("Warning: ")[2] for line in lines if "Warning: " in line]
    return [*told, *(line for line in lines if line == "--- Logging error ---")]


def test_only_what_is_listed_is_silenced():
    assert shown() == ["one of the user's own"]


def test_python_options_show_everything():
    assert len(shown("-W", "default")) == 4
