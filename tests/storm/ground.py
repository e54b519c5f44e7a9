"""What a journey has made so far, and so which steps it can take."""

from dataclasses import dataclass, field

from .commands import Data, Run
from .invariants import objects_of
from .journeys import Step
from .world import Home


@dataclass
class Prepared:
    spec: Data
    remote: str
    done: bool = False


@dataclass
class Trained:
    spec: Run
    place: str
    """Folder or URL of its checkpoints; empty for the default."""
    done: bool = False
    exported: bool = False
    ranks: set[int] = field(default_factory=set[int])
    was_extended: bool = False
    base: "Trained | None" = None

    @property
    def is_exact(self) -> bool:
        """Whether its losses are the quiet run's to the bit: sums over other ranks are rounded otherwise."""
        return self.ranks == {self.spec.ranks} and not self.was_extended and (self.base is None or self.base.is_exact)


@dataclass
class Ground:
    """Data and runs, by name."""

    home: Home
    data: dict[str, Prepared] = field(default_factory=dict[str, Prepared])
    runs: dict[str, Trained] = field(default_factory=dict[str, Trained])

    def has_ground(self, step: Step) -> bool:
        """Whether there is what the step needs."""
        if step.kind in {"prepare", "prepare_long"}:
            return True
        if step.kind == "prepare_chats":
            return all(name in self.runs and self.runs[name].exported for name in step.source)
        if step.kind in {"verify", "move", "cut", "anew"}:
            found = self.data.get(step.on)
            return found is not None and (step.kind == "verify" or (found.done and not found.remote.startswith("s3:")))
        if step.kind == "train":
            needed = step.source if step.on == "base" else step.source[:1]
            base = self.runs.get("base")
            has_base = step.on == "base" or (base is not None and base.done and (step.on == "long" or base.exported))
            return has_base and all(name in self.data and self.data[name].done for name in needed)
        run = self.runs.get(step.on)
        return run is not None and run.done and (step.kind in {"extend", "branch", "export", "report"} or run.exported)

    def checkpoints(self, known: Trained, name: str) -> list[int]:
        """Steps that have a record."""
        if known.place:
            prefix = f"{name}-run/"
            names = [key.removeprefix(prefix) for key in objects_of(self.home) if key.startswith(prefix)]
        else:
            names = [path.name for path in (self.home.path / f"runs/{name}/checkpoints").glob("*.json")]
        return [int(each[2:-5]) for each in names if each.startswith("ba") and each.endswith(".json")]

    def unfinished(self, data: str) -> list[tuple[str, Trained]]:
        """Runs on these data that have begun."""
        runs = self.runs.items()
        return [
            (name, run) for name, run in runs if data in run.spec.data and not run.done and self.checkpoints(run, name)
        ]
