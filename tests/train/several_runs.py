"""Runs of recipes one after the other on forked ranks, whose slow imports are done once.

python tests/train/several_runs.py <ranks> <recipe> <yaml> <recipe> <yaml> ...
"""

import os
import runpy
import signal
import socket
import sys
import traceback

import meap.data  # for the ranks, as the next two
import meap.train.start
import meap.train.trainer  # noqa: F401
from meap.config import RecipeConfig, load_config


def run_all(rank: int, environment: dict[str, str], words: list[str]) -> None:
    os.environ.update(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    for recipe, yaml in zip(words[::2], words[1::2], strict=True):
        runpy.run_path(recipe)["main"](load_config(RecipeConfig, yaml))


def main() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
    world = sys.argv[1]
    ranks = []
    for rank in range(int(world)):
        ranks.append(os.fork())
        if ranks[-1] == 0:
            try:
                run_all(rank, place | {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}, sys.argv[2:])
            except BaseException:  # noqa: BLE001 (a rank is a process of its own, and must end here)
                traceback.print_exc()
                os._exit(1)
            sys.stdout.flush()
            os._exit(0)
    while ranks:
        finished, status = os.wait()
        ranks.remove(finished)
        if status:
            for other in ranks:
                os.kill(other, signal.SIGKILL)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
