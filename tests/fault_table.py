"""The table of faults: what happens to people's runs, what must hold then, and which tests have shown it.

    @pytest.mark.fault(3)                        on a test, or `pytestmark` in a file: it shows row 3
    record_property("injected", 20)              in it: how often the fault was injected, 1 unless said

    make faults                                  runs them all and writes the table into docs/guarantees.md

The marks stand on tests in any folder: `tests/faults/` holds those that kill, starve and damage whole programs; what
one module promises is tested beside that module's other promises.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["FAULTS", "FaultResults", "replace_table"]

FAULTS = {
    1: (
        "SIGKILL of data preparation, or of one of its workers, at random moments",
        "a rerun completes to the same bytes; until then a reader is told that the data set is not complete",
    ),
    2: (
        "the disk is full: shards, cache, checkpoints",
        "an error with the path, what is needed and what is free; with space, the same command completes",
    ),
    3: (
        "S3 answers 500 or 503, not at all, cuts a body, or is slow: shards and checkpoints, up and down",
        "bounded retries, then an error with bucket, key and attempts; never a wrong byte",
    ),
    4: (
        "a byte of a shard flips; a shard or index is cut, missing, or another data set's",
        "an error before a row of it is used, with file, rows, hashes and remedy",
    ),
    5: (
        "SIGKILL of a rank, of all, of a loader worker; SIGTERM; Ctrl-C: in a step, a checkpoint, an upload",
        "nothing hangs; continuing equals no interruption: samples, masks, losses",
    ),
    6: (
        "what a killed run left in /dev/shm; two runs on one machine, one cache folder, one folder of checkpoints",
        "the next start works or says what to do; runs never meet",
    ),
    7: (
        "1, 2, 4 ranks in any order over one run, 0 to 3 loader workers",
        "the same samples and masks at every step",
    ),
    8: (
        "another ratio, seed, row length, data, tokenizer or batch on resumption",
        "refused with both values; what may change is listed and logged",
    ),
    9: (
        "a tokenizer or data that do not fit the model, or each other",
        "refused before the first step",
    ),
    10: (
        "a checkpoint or a shard with a pickle that runs a program",
        "never executed",
    ),
    11: (
        "credentials absent, wrong, expired",
        "an error without the secret; it is in no log, configuration, manifest or traceback",
    ),
    12: (
        "20,000 steps, two epochs, a checkpoint every 500",
        "memory, open files, threads, /dev/shm and disk stay flat",
    ),
    13: (
        "hostile text: every Unicode plane, NUL, a 50 MB line, deep JSON, duplicate keys, CRLF, BOM",
        "encoded exactly, or counted and reported; no crash, no hang",
    ),
    14: (
        "a loss that is not finite, memory that runs out, a clock that jumps",
        "stops with the step and the samples of the batch, after a checkpoint from before it",
    ),
}
"""What happens, and what must hold, by number."""

_BEGIN, _END = "<!-- faults: written by `make faults` -->", "<!-- /faults -->"


@dataclass
class FaultResults:
    """What the marked tests have shown, by row."""

    passed: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    injected: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    failed: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    skipped: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, outcome: str, properties: list[tuple[str, object]]) -> None:
        """Count a test that has ended."""
        times = sum(int(str(value)) for key, value in properties if key == "injected") or 1
        for number in [int(str(value)) for key, value in properties if key == "fault"]:
            if outcome == "passed":
                self.passed[number] += 1
                self.injected[number] += times
            else:
                (self.skipped if outcome == "skipped" else self.failed)[number].append(name)

    def table(self) -> str:
        """The rows, in Markdown.

        Raises:
            ValueError: A row has no test that passed, or one that did not: then there is nothing to claim.
        """
        unshown = [number for number in FAULTS if not self.passed[number] or self.failed[number]]
        if unshown:
            raise ValueError(f"faults {unshown} are not shown by tests that pass, so the table is left as it was")
        lines = ["| what happens | what holds | shown by |", "|---|---|---|"]
        for number, (fault, outcome) in FAULTS.items():
            skipped = f", {len(self.skipped[number])} not run here" if self.skipped[number] else ""
            tests, faults = self.passed[number], self.injected[number]
            shown = f"{tests} test{'s' * (tests > 1)}{skipped}, {faults:,} fault{'s' * (faults > 1)}"
            lines.append(f"| {fault} | {outcome} | {shown} |")
        return "\n".join(lines)


def replace_table(path: Path, table: str) -> None:
    """Put the table where the file has its place."""
    text = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    assert pattern.search(text), f"{path} has no place for the table of faults"
    path.write_text(pattern.sub(lambda _: f"{_BEGIN}\n{table}\n{_END}", text), encoding="utf-8")
