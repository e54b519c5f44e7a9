"""Journeys, drawn from a seed: steps over one set of data and models, their settings, and faults at moments.

A journey is drawn as a whole before any of it runs, so that a seed gives the same one on any machine. A step whose
ground is missing when its turn comes, because another was dropped, is passed over: any part of a journey is a journey.
"""

from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from meap.config import PrepConfig, RecipeConfig, SftPrepConfig

from .settings import SHARDED, STEPS, draw


@dataclass(frozen=True)
class Fault:
    """What happens to a command, and when: at a share of what happens in it, or from its beginning."""

    kind: str
    at: float | None = None
    event: str = "change"
    detail: dict[str, Any] = field(default_factory=dict[str, Any])

    def __str__(self) -> str:
        when = "" if self.at is None else f" at {self.at:.0%} of its {EVENTS[self.event]}"
        what = ", ".join(f"{key}={value}" for key, value in self.detail.items())
        return f"{self.kind}{when}{f' ({what})' if what else ''}"


@dataclass(frozen=True)
class Step:
    """A command, what it is given, and what happens to it."""

    kind: str
    on: str
    """Name of the data or of the run."""
    settings: dict[str, str] = field(default_factory=dict[str, str])
    place: str = "local"
    """`local` or `store`: where data go, or checkpoints."""
    source: tuple[str, ...] = ()
    """What it is made of: data, or a run."""
    ranks: int = 1
    nodes: bool = False
    """Whether each rank is a node of its own."""
    workers: int = 2
    cold: bool = False
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Journey:
    """Steps, and where they were drawn."""

    seed: int
    number: int
    steps: tuple[Step, ...]

    def to_values(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> "Journey":
        steps = [
            Step(**{**each, "source": tuple(each["source"]), "faults": tuple(Fault(**one) for one in each["faults"])})
            for each in values["steps"]
        ]
        return cls(values["seed"], values["number"], tuple(steps))


EVENTS = {
    "change": "changes of files",
    "pass": "forward passes",
    "request": "requests to the store",
    "publish": "moments after a record is there",
}
NOT_WITH_BASE = (
    "model.",
    "export.keep_mask",
    "masking.site",
    "masking.reversed",
    "masking.schedule",
    "masking.scope",
    "masking.preset",
    "scheduler.warmup_duration",  # an epoch of the conversations is all of it
)
BRANCH = {"scheduler.schedule": "wsd", "scheduler.decay_fraction": "1.0"}
_SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
_STORE_FAULTS = ("500", "503", "cut", "reset", "half", "short", "flip", "late", "stall", "hang", "hang")


def draw_journey(seed: int, number: int, *, is_private: bool = True) -> Journey:
    """The journey of that number."""
    return Journey(seed, number, tuple(_Drawing(Random(f"{seed}/{number}"), is_private=is_private).steps()))


class _Drawing:
    """A journey under way."""

    def __init__(self, random: Random, *, is_private: bool) -> None:
        self.random, self.is_private = random, is_private
        self.has_store = self.chance(0.55)
        self.found: list[Step] = []

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def add(self, kind: str, on: str, *, fault_share: float = 0.45, **given: Any) -> None:
        cold = self.chance(0.2 if kind == "verify" else 0.04) and given.get("ranks", 1) == 1
        step = Step(kind, on, cold=cold, **given)
        faults = [self.fault(step) for share in (fault_share, fault_share / 3) if self.chance(share)]
        self.found.append(Step(**{**step.__dict__, "faults": tuple(faults)}))

    def place(self) -> str:
        return "store" if self.has_store and self.chance(0.6) else "local"

    def steps(self) -> list[Step]:
        mixed = self.chance(0.2)
        for name in ("web", "books") if mixed else ("web",):
            plain = {"compression": "null"} if self.chance(0.4) else {}  # damage is not told by decompression
            settings = draw(self.random, PrepConfig, {"shard_size": "16kb", **plain})
            workers = 2 if self.chance(0.1) else 1
            self.add("prepare", name, settings=settings, place=self.place(), workers=workers)
            if self.chance(0.25):
                self.add("verify", name, fault_share=0.2)
        if self.chance(0.2):
            self.add("cut", "web", fault_share=0)
        self.train("base", ("web", "books") if mixed else ("web",))
        if self.chance(0.2):
            self.add("prepare_long", "pages", settings={"shard_size": "16kb"}, place=self.place(), workers=1)
            self.train("long", ("pages", "base"))
            if self.chance(0.5):
                self.finish("long")
        if self.chance(0.7):
            self.finish("base")
            if self.chance(0.35):
                self.add(
                    "prepare_chats", "chats", settings=draw(self.random, SftPrepConfig, {}), source=("base",), workers=1
                )
                plain = self.found[-1].settings.get("copies") == "false"
                self.train("tuned", ("chats", "base"), given={"masking.ratio": "0"} if plain else {})
                if self.chance(0.6):
                    self.finish("tuned")
        return self.found

    def train(self, name: str, source: tuple[str, ...], given: dict[str, str] | None = None) -> None:
        """A run with its starts, and what happens to its data between them."""
        ranks = self.ranks()
        sharding = self.random.choice(SHARDED) if ranks > 1 else {}
        base = {**sharding, **(given or {}), "train.max_duration": f"{STEPS if name == 'base' else 6}ba"}
        if len(source) == 2 and name == "base" and self.chance(0.5):
            base |= {"data.streams.web.proportion": "2", "data.streams.books.proportion": "1"}
            base |= {"data.batching_method": "stratified"} if self.chance(0.4) else {}
        if sharding and self.chance(0.5):
            base["checkpoint.state_dict"] = "sharded"
        if not self.chance(0.3):
            base["train.samples"] = "0"
        if self.chance(0.1):
            base |= {"loggers.tensorboard": "false"}
        elif self.chance(0.06):
            base |= {"loggers.mlflow": "true", "loggers.mlflow_tracking_uri": "file:mlruns"}
        elif self.chance(0.06):
            base |= {"loggers.wandb": "true"}
        branches = name == "base" and self.chance(0.15)
        if branches:
            base |= {"scheduler.schedule": "constant", "scheduler.warmup_ratio": "0.1", "checkpoint.keep": "-1"}
        without = () if name == "base" else NOT_WITH_BASE
        without += ("scheduler.warmup",) if branches else ()  # a branch begins at the peak
        without += ("scheduler.warmup_duration",) if len(source) == 2 else ()  # an epoch of both is more than all of it
        without += ("masking.",) if base.get("masking.ratio") == "0" else ()
        settings = draw(self.random, RecipeConfig, base, without=without)
        divides = int(settings.get("data.num_canonical_nodes", "2")) % 2 == 0
        place = self.place()
        for leg in range(self.random.choice((1, 1, 2, 2, 3))):
            if leg:
                if self.chance(0.4) and name == "base":
                    self.add(self.random.choice(("move", "cut", "anew")), "web", fault_share=0)
                ranks = self.ranks() if self.chance(0.4) else ranks
            workers = self.random.choice((0, 0, 1, 2, 2, 3))
            self.add(
                "train", name, settings=settings, place=place, source=source, ranks=ranks, workers=workers,
                nodes=ranks == 2 and self.chance(0.3) and divides, fault_share=0.75,
            )  # fmt: skip
        if branches:
            self.add("branch", name, settings=BRANCH, ranks=ranks, workers=self.random.choice((0, 2)), fault_share=0.5)
        if self.chance(0.15):
            self.add("extend", name, ranks=ranks, workers=0)

    def ranks(self) -> int:
        return self.random.choice((1,) * 13 + (2,) * 6 + (4,))

    def finish(self, run: str) -> None:
        """From the run to what others see of it."""
        self.add("export", run, fault_share=0.6)
        if self.chance(0.3):
            self.add("evaluate", run)
        if self.chance(0.3):
            self.add("generate", run, fault_share=0.3)
        if self.chance(0.15):
            self.add("report", run, fault_share=0.3)

    def fault(self, step: Step) -> Fault:
        kinds = ["signal"] * 7 + ["second"] * 3 + ["stop", "clock", "files", "home", "umask"]
        if self.has_store and step.kind in {
            "prepare",
            "prepare_long",
            "prepare_chats",
            "train",
            "extend",
            "branch",
            "export",
            "verify",
        }:
            kinds += ["store"] * 6
        if self.is_private:
            kinds += ["disk", "disk", "shm", "read_only", "user"]
        kind, at = self.random.choice(kinds), self.random.random()
        trains = step.kind in {"train", "extend", "branch"}
        event = self.random.choice(("change", "pass")) if trains and not step.cold else "change"
        if kind == "signal":
            if self.has_store and self.chance(0.25):
                event = "request"
            elif self.chance(0.4):
                event = "publish"
            whom = self.random.choice(
                ("rank", "worker", "launcher", "group", "group") if trains else ("group",) * 3 + ("launcher", "worker")
            )
            return Fault("signal", at, event, {"signal": self.random.choice(_SIGNALS), "whom": whom})
        if kind == "store":
            return self.store_fault(at)
        if kind in {"stop", "second"}:
            return Fault(kind, at, event, {"stands": self.chance(0.6)} if kind == "second" else {"seconds": 1.5})
        if kind == "clock":
            return Fault(kind, at, event, {"seconds": self.random.choice((-3600, -86400 * 400, 86400))})
        if kind == "files":
            return Fault(kind, detail={"files": self.random.choice((24, 48, 64, 96, 128))})
        if kind in {"disk", "shm"}:
            return Fault(kind, detail={"room": self.random.choice((0, 16, 64, 200, 600)) * 1024})
        if kind == "read_only":
            return Fault(kind, detail={"folder": self.random.choice(("data", "runs", "."))})
        return Fault(kind)

    def store_fault(self, at: float) -> Fault:
        what = self.random.choice(_STORE_FAULTS)
        method = self.random.choice(("GET", "PUT", "any"))
        if what == "hang":  # the user loses patience, or the scheduler does
            then = {"signal": self.random.choice(("SIGINT", "SIGINT", "SIGTERM")), "whom": "group"}
            return Fault("store", at, "request", {"what": what, "method": method, "times": 1, **then})
        times = self.random.choice((1, 1, 1, 2, 999))
        return Fault("store", at, "request", {"what": what, "method": method, "times": times})
