"""The calls that a network file system without locks and hard links refuses, refused by the kernel.

A seccomp filter: it holds for this process and what it starts, for good.
"""

import ctypes
import errno
import fcntl
import os
import platform
import struct
from pathlib import Path

_NUMBERS = {
    "x86_64": {"flock": 73, "fcntl": 72, "link": 86, "linkat": 265},
    "aarch64": {"flock": 32, "fcntl": 25, "linkat": 37},
}
IS_KNOWN = platform.machine() in _NUMBERS
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ERROR, _ALLOW = 0x00050000, 0x7FFF0000
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2


def become_network_disk() -> None:
    """From now on, no file can be locked, and no second name be given to one."""
    numbers = _NUMBERS[platform.machine()]
    refused = {numbers["flock"]: errno.ENOLCK} | {
        numbers[name]: errno.EPERM for name in ("link", "linkat") if name in numbers
    }
    program = [(_LOAD, 0, 0, 0)]  # the number of the call
    for number, error in refused.items():
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERROR | error)]
    commands = (fcntl.F_SETLK, fcntl.F_SETLKW)
    program += [(_EQUAL, 0, 1 + 2 * len(commands), numbers["fcntl"]), (_LOAD, 0, 0, 24)]  # and its second argument
    for command in commands:
        program += [(_EQUAL, 0, 1, command), (_RETURN, 0, 0, _ERROR | errno.ENOLCK)]
    program += [(_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
    filters = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    assert libc.prctl(_SECCOMP, _FILTER, ctypes.c_char_p(filters), 0, 0) == 0, ctypes.get_errno()


def refuse_locks_below(folder: Path) -> None:
    """From now on, `fcntl.flock` refuses files below a folder, as if it were on another disk than all others."""
    flock = fcntl.flock

    def refuse(handle: int, operation: int) -> None:
        if Path(f"/proc/self/fd/{handle}").readlink().is_relative_to(folder):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(handle, operation)

    fcntl.flock = refuse
