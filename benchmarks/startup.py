"""Seconds from the command to the end of the first step, by phase and by launcher.

    python benchmarks/startup.py                                    # the small sizes below: about three minutes
    python benchmarks/startup.py yamls/1b.yaml data.remote=data/c4/mds
    python benchmarks/startup.py launchers=python,torchrun repetitions=3

Every start is the recipe itself in a fresh process and run folder, stopped after one step; the functions that it calls
are wrapped and timed. `srun` starts a rank as `python` does. Needs shards where the yaml says (python
dataprep/c4_to_mds.py writes those of the default). Prints medians, of rank 0.
"""

import functools
import gc
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "meap_1b.py"
REPETITIONS = 5
SHORT = ("train.max_duration=1ba", "train.eval_batches=0", "train.log_interval=1ba")
LAUNCHERS = {
    "python": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"],
    "composer": [str(Path(sys.executable).with_name("composer")), "-n", "1"],
}
STEPS = (
    ("meap.train.machine", "join_machine", "join the ranks"),
    ("meap.train.data", "open_data", "data"),
    ("meap.train.start", "start_model", "model"),
    ("meap.train.trainer", "build_trainer", "trainer"),
    ("meap.train.fitting", "fit", "first step"),
)
PHASES = ("launcher and interpreter", "imports", *dict.fromkeys(phase for *_, phase in STEPS), "rest", "total")


def main(arguments: list[str]) -> int:
    """Start the recipe again and again, and print."""
    ours = {key: value for key, _, value in (each.partition("=") for each in arguments)}
    launchers = ours.get("launchers", ",".join(LAUNCHERS)).split(",")
    repetitions = int(ours.get("repetitions", REPETITIONS))
    given = [each for each in arguments if not each.startswith(("launchers=", "repetitions="))]
    if not any(each.endswith(".yaml") for each in given):
        given.insert(0, str(RECIPE.parent.parent / "yamls" / "tiny.yaml"))
    measured: dict[str, list[dict[str, float]]] = {launcher: [] for launcher in launchers}
    for _ in range(repetitions):
        for launcher in launchers:
            measured[launcher].append(start(LAUNCHERS[launcher], given))
    print(f"{'seconds':<26}" + "".join(f"{launcher:>10}" for launcher in launchers))
    for phase in PHASES:
        medians = [statistics.median(each[phase] for each in measured[launcher]) for launcher in launchers]
        print(f"{phase:<26}" + "".join(f"{median:>10.2f}" for median in medians))
    return 0


def start(launcher: list[str], given: list[str]) -> dict[str, float]:
    """Seconds of each phase of one start."""
    with tempfile.TemporaryDirectory(prefix="meap-benchmark-") as folder:
        started = time.time()
        finished = subprocess.run(
            [*launcher, __file__, "rank", str(started), folder, *given, *SHORT, f"run.dir={folder}/run"],
            check=False,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        if finished.returncode:
            sys.exit("error: the recipe did not take its first step, for the reason above")
        spent = json.loads(Path(folder, "spent.json").read_text())
    named = sum(seconds for phase, seconds in spent.items() if phase != "total")
    return spent | {"rest": spent["total"] - named}


def run_rank(started: float, folder: Path, arguments: list[str]) -> None:
    """Run the recipe, and write down how long its parts took."""
    spent = dict.fromkeys(PHASES, 0.0)
    spent["launcher and interpreter"] = time.time() - started
    before = time.perf_counter()
    gc.set_threshold(50_000, 20, 50)  # as run_command does before it imports anything
    from meap.train.ranks import adopt_ranks

    adopt_ranks()
    for module, name, phase in STEPS:
        wrap(spent, module, name, phase)
    spent["imports"] = time.perf_counter() - before
    sys.argv = [str(RECIPE), *arguments]
    try:
        runpy.run_path(str(RECIPE), run_name="__main__")
    finally:
        spent["total"] = time.time() - started
        if os.environ.get("RANK", "0") == "0":
            (folder / "spent.json").write_text(json.dumps(spent))


def wrap(spent: dict[str, float], module: str, name: str, phase: str) -> None:
    """Let `module.name` add its time to a phase."""
    __import__(module)
    function = getattr(sys.modules[module], name)

    @functools.wraps(function)
    def timed(*arguments: object, **options: object) -> object:
        before = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spent[phase] += time.perf_counter() - before

    setattr(sys.modules[module], name, timed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        run_rank(float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        sys.exit(main(sys.argv[1:]))
