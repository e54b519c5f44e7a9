"""Which ranks still answer, asked by those that wait for one: a rank may stand still, or be gone, without a word."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
import torch.distributed

__all__ = ["roll_call"]

_SECONDS = 20.0
"""Ranks find out within so many seconds of each other that one is missing."""


def roll_call(group: Any) -> str:
    """What is known of the ranks that do not answer, for messages; every rank that still can calls.

    Args:
        group: All ranks, over CPUs; None if there is one.
    """
    if group is None:
        return ""
    rank, others = torch.distributed.get_rank(), range(torch.distributed.get_world_size())
    silent, gone, lock = {other for other in others if other != rank}, set[int](), threading.Lock()

    def listen(other: int) -> None:
        try:
            torch.distributed.recv(torch.zeros(1), other, group=group)
        except (RuntimeError, ValueError):  # its connections have ended
            with lock:
                gone.add(other)
        with lock:
            silent.discard(other)

    def speak(other: int) -> None:
        try:
            torch.distributed.send(torch.zeros(1), other, group=group)
        except (RuntimeError, ValueError):
            return

    # A wait with a time-out would end every connection of the group; threads that wait for ever end with the process.
    for act in (speak, listen):
        for other in sorted(silent):
            threading.Thread(target=act, args=[other], daemon=True).start()
    until = time.monotonic() + _SECONDS
    while silent and time.monotonic() < until:
        time.sleep(0.05)
    with lock:
        return " and ".join(
            f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, sorted(ranks)))} {what}"
            for ranks, what in ((gone, "ended"), (silent, f"did not answer for {_SECONDS:.0f} s"))
            if ranks
        )
