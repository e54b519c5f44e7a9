"""Calls a function in a fork of this process, where it may change the process for good."""

import os
import sys
from collections.abc import Callable


def in_a_fork(act: Callable[[], object]) -> str:
    """Type and text of the error that it raises; empty for none."""
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        told = ""
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)  # OpenMP waits for ever for threads that no fork has
        try:
            act()
        except BaseException as error:  # noqa: BLE001  whatever it is, the parent judges it
            told = f"{type(error).__name__}: {error}"
        os.write(writer, told.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as answer:
        return answer.read()
