"""A journey on its way: each step is run under its faults, and then what must hold is asked."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from .commands import CORPORA, Data, Run, typed
from .faults import Expected, run, statuses
from .ground import Ground, Prepared, Trained
from .invariants import (
    check_alone,
    check_end,
    check_left,
    check_losses,
    check_published,
    check_rows,
    check_secrets,
    hashes_of,
    losses_of,
    require,
    rows_of,
)
from .journeys import Fault, Journey, Step
from .quiet import Quiet
from .running import Outcome
from .settings import ROWS_OF_BATCH

EXTENSION = 4
EVALUATION = ("yamls/eval_small.yaml", "limit=2", "tasks=key_retrieval,kv_retrieval", "kv_retrieval.keys=[2]")
EXPECTED = {
    "verify": Expected(change=4, request=30),
    "export": Expected(change=30, request=12),
    "evaluate": Expected(change=25),
    "generate": Expected(change=3),
    "report": Expected(change=4),
}


@dataclass
class Traveller(Ground):
    """Goes through a journey; `said` is what a person would type, with faults as comments."""

    quiet: Quiet = field(kw_only=True)
    said: list[str] = field(default_factory=list[str])
    hits: list[str] = field(default_factory=list[str])
    steps: int = 0
    seconds: float = 0.0
    killed: set[str] = field(default_factory=set[str])
    unreleased: set[str] = field(default_factory=set[str])
    """Data and runs whose command was killed; what that leaves, the next one on the same that ends well removes."""
    rest: Sequence[Step] = ()
    """Of the journey."""

    def go(self, journey: Journey) -> None:
        """All steps, in order.

        Raises:
            BrokenError: An invariant does not hold.
            QuietFailureError: The configuration is refused without any fault.
        """
        for place, step in enumerate(journey.steps):
            self.rest = journey.steps[place + 1 :]
            act: Callable[[Step], None] = getattr(self, step.kind)
            if self.has_ground(step):
                self.said.append(f"# {step.kind} {step.on}")
                self.steps += 1
                act(step)

    # Steps.

    def prepare(self, step: Step) -> None:
        base = self.runs[step.source[0]] if step.source else None
        spec = Data(step.kind, CORPORA[step.on], step.settings, base.spec if base else None)
        expected = self.quiet.prepared(spec).expected
        remote = f"s3://{self.home.bucket}/{step.on}" if step.place == "store" else f"data/{step.on}"
        known = self.data.setdefault(step.on, Prepared(spec, remote))
        base_dir = f"runs/{step.source[0]}/hf" if step.source else ""

        def check(_: Outcome) -> None:
            found = hashes_of(self.home, remote)
            require(found == self.quiet.prepared(spec).hashes, "work is there", f"{remote} differs from the quiet one")

        def always(_: Outcome) -> None:
            found = hashes_of(self.home, remote)
            same = found.items() <= self.quiet.prepared(spec).hashes.items()
            require(same, "what is published verifies", f"{remote} has an index, and not the quiet one's shards")

        words = spec.words(remote, workers=step.workers, base_dir=base_dir)
        known.done = self.command(step, words, expected, done=check, always=always)
        self.command(replace(step, faults=(), cold=False), ["-m", "meap", "verify", f"remote={remote}"], Expected())

    prepare_chats = prepare_long = prepare

    def verify(self, step: Step) -> None:
        self.command(step, ["-m", "meap", "verify", f"remote={self.data[step.on].remote}"], EXPECTED["verify"])

    def train(self, step: Step) -> None:
        base = None if step.on == "base" else self.runs["base"]
        names = step.source if base is None else step.source[:1]
        sources = {name: self.data[name] for name in names}
        if step.on not in self.runs:
            specs = {name: each.spec for name, each in sources.items()}
            place = f"s3://{self.home.bucket}/{step.on}-run" if step.place == "store" else ""
            spec = Run(step.settings, specs, base.spec if base else None, step.ranks)
            self.runs[step.on] = Trained(spec, place, base=base)
            self.quiet.trained(self.runs[step.on].spec)
        self.fit(step)

    def extend(self, step: Step) -> None:
        known = self.runs[step.on]
        known.spec, known.was_extended = known.spec.longer(known.spec.steps + EXTENSION), True
        self.fit(replace(step, settings=known.spec.settings))

    def fit(self, step: Step) -> None:
        """A start of a run, or another one, by the same yaml; data may have moved."""
        known, name = self.runs[step.on], step.on
        quiet = self.quiet.trained(known.spec)
        remotes = {each: self.data[each].remote for each in known.spec.data}
        base_dir = known.spec.base_dir("runs/base")
        known.spec.write_yaml(self.home.path / f"{name}.yaml", remotes, base_dir=base_dir, folder=known.place)
        ranks = step.ranks
        if ranks == 1 and known.spec.settings.get("train.sharding") and not self.checkpoints(known, name):
            ranks = 2  # one rank may only continue what several began
        known.ranks.add(ranks)
        folder = self.home.path / "runs" / name

        def always(outcome: Outcome) -> None:
            if not (known.was_extended and "masking.schedule" in known.spec.settings):
                check_rows(rows_of(outcome.notes), quiet.told.rows, ROWS_OF_BATCH)
            if known.is_exact or (known.base is None and not known.was_extended):
                check_losses(losses_of(folder), quiet.told.losses, exact=known.is_exact)
            if outcome.status == 75:
                saved, made = max(self.checkpoints(known, name), default=0), max(rows_of(outcome.notes), default=0)
                require(
                    saved >= made, "work is there", f"stopped with ba{saved} of {made} steps\n{outcome.printed[-1500:]}"
                )

        def check(outcome: Outcome) -> None:
            saved = max(self.checkpoints(known, name), default=0)
            require(
                saved == known.spec.steps,
                "work is there",
                f"ba{saved} of {known.spec.steps} steps\n{outcome.printed[-1500:]}",
            )
            losses = losses_of(folder)
            require(
                sorted(losses) == list(range(1, known.spec.steps + 1)),
                "work is there",
                f"losses of steps {sorted(losses)}",
            )

        known.done = self.command(
            replace(step, ranks=ranks, nodes=step.nodes and ranks > 1),
            known.spec.words(name, workers=step.workers),
            quiet.expected,
            done=check,
            always=always,
        )

    def branch(self, step: Step) -> None:
        """From a checkpoint, at a rate that falls: the same rows, in a run of its own."""
        known = self.runs[step.on]
        start = min((each for each in self.checkpoints(known, step.on) if each > known.spec.steps // 5), default=0)
        if not 0 < start < known.spec.steps:
            return
        folder = known.place or f"runs/{step.on}/checkpoints"
        suffix = "" if known.spec.settings.get("checkpoint.state_dict") == "sharded" else ".pt"
        origin = {"train.branch_from": f"{folder}/ba{start}{suffix}"}
        spec = replace(known.spec, settings={**known.spec.settings, **step.settings, **origin})
        remotes = {each: self.data[each].remote for each in spec.data}
        spec.write_yaml(self.home.path / "branch.yaml", remotes)
        quiet = self.quiet.trained(known.spec)

        def always(outcome: Outcome) -> None:
            found = rows_of(outcome.notes)
            first = min(found, default=start + 1)
            require(first > start, "samples and masks", f"a branch of ba{start} has step {first}")
            check_rows(found, quiet.told.rows, ROWS_OF_BATCH)

        def check(_: Outcome) -> None:
            made = sorted(losses_of(self.home.path / "runs/branch"))
            require(made == list(range(start + 1, spec.steps + 1)), "work is there", f"losses of steps {made}")

        ranks = known.spec.ranks if known.spec.settings.get("train.sharding") else step.ranks
        words = spec.words("branch", workers=step.workers)
        self.command(replace(step, ranks=ranks), words, quiet.expected, done=check, always=always)

    def export(self, step: Step) -> None:
        def check(_: Outcome) -> None:
            folder = self.home.path / f"runs/{step.on}/hf"
            have = {path.name for path in folder.glob("*")}
            require({"config.json", "tokenizer.json", "meap_export.json"} <= have, "work is there", f"{sorted(have)}")

        words = ["recipes/export_hf.py", f"{step.on}.yaml"]
        self.runs[step.on].exported = self.command(step, words, EXPECTED["export"], done=check)

    def evaluate(self, step: Step) -> None:
        def check(_: Outcome) -> None:
            results = self.home.path / f"runs/{step.on}/eval/results.json"
            require(results.is_file() and json.loads(results.read_text()), "work is there", "no results.json")

        words = ["recipes/evaluate.py", *EVALUATION, f"model=runs/{step.on}/hf"]
        self.command(step, words, EXPECTED["evaluate"], done=check)

    def generate(self, step: Step) -> None:
        words = ["-m", "meap", "generate", f"model=runs/{step.on}", "prompt=The import statement", "max_new_tokens=4"]
        self.command(step, words, EXPECTED["generate"])

    def report(self, step: Step) -> None:
        def check(_: Outcome) -> None:
            require((self.home.path / "report.html").is_file(), "work is there", "no report.html")

        words = ["-m", "meap", "report", f"runs=runs/{step.on}", "html=report.html"]
        self.command(step, words, EXPECTED["report"], done=check)

    def move(self, step: Step) -> None:
        found = self.data[step.on]
        target = f"disk{self.steps}"
        self.said.append(f"mv {found.remote} {target}")
        shutil.move(self.home.path / found.remote, self.home.path / target)
        found.remote = target

    def cut(self, step: Step) -> None:
        """A shard is damaged: verify says so, a run does not train on it, and it comes back."""
        found = self.data[step.on]
        shard = min((self.home.path / found.remote / "train").glob("shard.*"))
        content = shard.read_bytes()
        middle, flips = len(content) // 2, step.workers % 2 == 0
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        shard.write_bytes(flipped if flips else content[:middle])
        self.said.append(f"# {shard.relative_to(self.home.path)} {'has a flipped bit' if flips else 'loses its end'}")
        outcome = self.run(["-m", "meap", "verify", f"remote={found.remote}"], (), Expected())
        require(outcome.status == 1, "what is published verifies", f"a damaged shard passes\n{outcome.printed[-1500:]}")
        require(shard.name in outcome.printed, "error", f"{shard.name} is not named\n{outcome.printed[-1500:]}")
        begun = [(name, known.spec) for name, known in self.unfinished(step.on) if not known.was_extended]
        read = [known.spec for known in self.runs.values() if found.spec in known.spec.data.values() and not known.base]
        read += [
            Run(each.settings, {name: self.data[name].spec for name in each.source}, None, each.ranks)
            for each in self.rest
            if (each.kind, each.on) == ("train", "base") and self.has_ground(each)
        ]
        for name, spec in [*begun, *((f"cut{self.steps}", each) for each in read[:1])]:
            if name not in self.runs:
                remotes = {each: self.data[each].remote for each in spec.data}
                spec.write_yaml(self.home.path / f"{name}.yaml", remotes)
            outcome = self.run(spec.words(name, workers=0), (), Expected(), ranks=spec.ranks)
            check_end(outcome, {0, 1})  # it may have read the shard already, or not need it
            check_rows(rows_of(outcome.notes), self.quiet.trained(spec).told.rows, ROWS_OF_BATCH)
            # Composer's launcher kills a rank that still fetches the shard half a minute after another has given up.
            check_left(self.home, outcome, was_killed=bool(self.killed) or "with SIGKILL instead" in outcome.printed)
            if name not in self.runs:
                shutil.rmtree(self.home.path / "runs" / name)
        shard.write_bytes(content)

    def anew(self, step: Step) -> None:
        """Other data at the same address: a run that was trained on the first refuses them."""
        found = self.data[step.on]
        place, aside = self.home.path / found.remote, self.home.path / "aside"
        self.said.append(f"mv {found.remote} aside")
        place.rename(aside)
        other = replace(found.spec, corpus="other" if found.spec.corpus == "crawl" else "crawl")
        self.command(replace(step, faults=()), other.words(found.remote, workers=1), Expected())
        for name, known in self.unfinished(step.on):
            outcome = self.run(known.spec.words(name, workers=0), (), Expected(), ranks=known.spec.ranks)
            check_end(outcome, {1, 2})
        self.said.append(f"rm -r {found.remote} && mv aside {found.remote}")
        shutil.rmtree(place)
        aside.rename(place)

    # Commands.

    def command(
        self,
        step: Step,
        words: list[str],
        expected: Expected,
        *,
        done: Callable[[Outcome], None] = lambda _: None,
        always: Callable[[Outcome], None] = lambda _: None,
    ) -> bool:
        """Run a command under its faults, and ask; says whether it has finished.

        Where it has not, the same command does without faults, unless the journey comes back to it.
        """
        for faults in (step.faults, ()) if step.faults else ((),):
            outcome = self.run(words, faults, expected, ranks=step.ranks, nodes=step.nodes, cold=step.cold)
            allowed = statuses(faults, outcome.hits, step.settings)
            is_killed = "signal" in outcome.hits and any(each.detail.get("signal") == "SIGKILL" for each in faults)
            if is_killed or (outcome.status or 0) < 0:
                self.killed.add(step.on)
            elif outcome.status == 0:
                self.killed.discard(step.on)
                self.unreleased.discard(step.on)
            elif "store" in outcome.hits and any(each.detail.get("times", 1) > 1 for each in faults):
                self.unreleased.add(step.on)
            check_end(outcome, allowed)
            always(outcome)
            for other in outcome.others:
                check_end(other, {0, 1, 2})
                check_alone(outcome, other)
            check_published(self.home)
            if outcome.status == 0:
                done(outcome)
            check_left(self.home, outcome, was_killed=bool(self.killed), is_store_lost=bool(self.unreleased))
            check_secrets(self.home, outcome)
            if outcome.status == 0:
                return True
            if any((each.kind, each.on) == (step.kind, step.on) for each in self.rest):
                break
        return False

    def run(
        self,
        words: list[str],
        faults: Sequence[Fault],
        expected: Expected,
        *,
        ranks: int = 1,
        nodes: bool = False,
        cold: bool = False,
    ) -> Outcome:
        self.said += [f"# under: {fault}" for fault in faults]
        self.said.append(typed(words, ranks, nodes=nodes))
        outcome = run(self.home, words, faults, expected, ranks=ranks, nodes=nodes, cold=cold)
        self.said[-1] += (
            f"   # status {outcome.status} after {outcome.seconds:.0f} s; met {', '.join(outcome.hits) or 'nothing'}"
        )
        self.hits += outcome.hits
        return outcome
