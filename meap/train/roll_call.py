"""Which ranks still answer, asked by those that wait for one: a rank may stand still, or be gone, without a word."""

from __future__ import annotations

import json
import time
from typing import Any

from composer.utils import dist

from meap.data.ranks import neighbour_states
from meap.json_text import parse_json
from meap.processes import ask_store

__all__ = ["roll_call"]

_SECONDS = 20.0
"""Ranks find out within so many seconds of each other that one is missing."""
_SECONDS_TO_HEAR = 2.0
"""For the others to say, too, which ranks they have seen to be gone."""
_KEY = "meap/here"
"""Of a line by each rank, for each time that it knows more."""


def roll_call() -> str:
    """What is known of the ranks that do not answer, for messages; every rank that still can calls.

    Each says in the store that it is there, and which ranks of its machine have ended: the connections of a group tell
    no more once one of them is lost, as then all of them are.
    """
    rank, world_size = dist.get_global_rank(), dist.get_world_size()
    here, ended, stopped = {rank}, set[int](), set[int]()
    began, said = time.monotonic(), ""
    while True:
        states = neighbour_states()
        ended |= {other for other, state in states.items() if state == "ended"}
        stopped = {other for other, state in states.items() if state == "stopped"}
        mine = f"{rank} {json.dumps(sorted(ended))}\n"
        told = ask_store(lambda store, news=mine if mine != said else "": _exchange(store, news))
        said = mine if told is not None else said
        waited = time.monotonic() - began
        if told is None and (0 in ended | stopped or waited > _SECONDS):  # who hosts it: nobody can be asked
            return _describe(ended, stopped, {0} - ended - stopped)
        for other, seen in (told or {}).items():
            here.add(other)
            ended |= set(seen)
        ended -= here  # who has answered ends for the same reason as this one
        silent = set(range(world_size)) - here - ended
        if silent <= stopped or waited > (_SECONDS_TO_HEAR if ended else _SECONDS):
            silent = set() if ended else silent  # some wait on, for those that this one does not depend on
            return _describe(ended, silent & stopped, silent - stopped)
        time.sleep(0.1)


def _exchange(store: Any, news: str) -> dict[int, list[int]]:
    """Say that this rank is there; returns the ranks that have said so, and which they have seen to be gone.

    Hundreds of ranks ask one store at once: two requests each, whatever their number.
    """
    if news:
        store.append(_KEY, news)
    lines = (line.split(" ", 1) for line in store.get(_KEY).decode().splitlines())
    return {int(rank): parse_json(seen) for rank, seen in lines}


def _describe(ended: set[int], stopped: set[int], silent: set[int]) -> str:
    parts = ((ended, "ended"), (stopped, "got SIGSTOP"), (silent, f"did not answer for {_SECONDS:.0f} s"))
    return " and ".join(
        f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, sorted(ranks)))} {what}"
        for ranks, what in parts
        if ranks
    )
