"""The quiet runs that a journey is measured by: the same data and runs without faults, here, in one process each."""

from dataclasses import dataclass, field, replace

from .commands import Data, Run, key_of
from .faults import Expected, run
from .invariants import Told, check_epochs, check_left, hashes_of, losses_of, rows_of
from .running import Outcome
from .world import Home


class QuietFailureError(Exception):
    """Without any fault, a command fails."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"status {outcome.status}\n{outcome.printed[-3000:]}")
        self.outcome = outcome


@dataclass
class QuietData:
    remote: str
    hashes: dict[str, str]
    expected: Expected


@dataclass
class QuietRun:
    name: str
    told: Told
    expected: Expected


@dataclass
class Quiet:
    """Makes each once, in a home of its own."""

    home: Home
    data: dict[str, QuietData] = field(default_factory=dict[str, QuietData])
    runs: dict[str, QuietRun] = field(default_factory=dict[str, QuietRun])
    begun: int = 0

    def prepared(self, spec: Data) -> QuietData:
        key = key_of(spec)
        if key not in self.data:
            remote = f"data/{len(self.data)}"
            base_dir = self.exported(spec.base) if spec.base is not None else ""
            outcome = self._run(spec.words(remote, workers=1, base_dir=base_dir))
            expected = Expected(change=outcome.count("change"), publish=max(1, outcome.count("publish")))
            self.data[key] = QuietData(remote, hashes_of(self.home, remote), expected)
        return self.data[key]

    def trained(self, spec: Run) -> QuietRun:
        key = key_of(spec)
        if key not in self.runs:
            name, self.begun = f"run{self.begun}", self.begun + 1
            remotes = {name: self.prepared(data).remote for name, data in spec.data.items()}
            base_dir = self.begun_with(spec)
            path = self.home.path / f"{name}.yaml"
            spec.write_yaml(path, remotes, base_dir=base_dir)
            outcome = self._run(spec.words(name, workers=0), ranks=spec.ranks)
            told = Told(rows_of(outcome.notes), losses_of(self.home.path / "runs" / name))
            if float(spec.settings.get("masking.ratio", 0.15)) and "masking.preset" not in spec.settings:
                check_epochs(told)
            expected = Expected(outcome.count("change"), outcome.count("pass"))
            published = max(1, outcome.count("publish"))
            self.runs[key] = QuietRun(name, told, replace(expected, request=40, publish=published))
        return self.runs[key]

    def begun_with(self, spec: Run) -> str:
        if spec.base is None:
            return ""
        return self.exported(spec.base) if spec.tunes else f"runs/{self.trained(spec.base).name}"

    def exported(self, spec: Run) -> str:
        name = self.trained(spec).name
        folder = f"runs/{name}/hf"
        if not (self.home.path / folder).exists():
            self._run(["recipes/export_hf.py", f"{name}.yaml"])
        return folder

    def _run(self, words: list[str], *, ranks: int = 1) -> Outcome:
        outcome = run(self.home, words, (), Expected(), ranks=ranks)
        if outcome.status != 0:
            raise QuietFailureError(outcome)
        check_left(self.home, outcome, was_killed=False)
        return outcome
