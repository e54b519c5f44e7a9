"""Becomes a user with nothing but the folder it stands in, and runs a program: no name, no home, its own umask.

    python other_user.py <uid> <umask> <program> [arguments]

Where Python itself lies in root's home, its files stay readable to the process, and to what it starts; writing is what
the user may, no more.
"""

import ctypes
import os
import runpy
import sys
from pathlib import Path

_KEEP_CAPABILITIES, _RAISE_AMBIENT = (8, 1, 0, 0, 0), (47, 2, 2, 0, 0)
_READ_ALL = 1 << 2
_VERSION = 0x20080522


def become_user(uid: int, *, reads_all: bool = False) -> None:
    """Give up root for good."""
    libc = ctypes.CDLL(None)
    if reads_all:
        libc.prctl(*_KEEP_CAPABILITIES)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if reads_all:
        header, data = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)(*[_READ_ALL] * 3)
        assert libc.capset(header, data) == 0
        assert libc.prctl(*_RAISE_AMBIENT) == 0


def _is_open_to_all(path: Path) -> bool:
    return all(each.stat().st_mode & 0o1 for each in (path, *path.parents))


if __name__ == "__main__":
    uid, umask, *program = sys.argv[1:]
    become_user(int(uid), reads_all=not _is_open_to_all(Path(os.__file__).resolve().parent))
    os.umask(int(umask, 8))
    sys.argv[:] = program[1:] if program[0] == "-m" else program
    if program[0] == "-m":
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(program[0]).parent))
        runpy.run_path(program[0], run_name="__main__")
