"""What was drawn and what was found: a line per journey, and the table that docs/guarantees.md makes of them."""

import json
import platform
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_BEGIN, _END = "<!-- storm: written by `make storm` -->", "<!-- /storm -->"


@dataclass(frozen=True)
class Entry:
    """A journey that has ended."""

    seed: int
    number: int
    steps: int
    faults: dict[str, int]
    seconds: float
    verdict: str
    """`quiet`, `refused`, or the invariant that did not hold."""
    told: str = ""
    at: float = 0.0


def append(path: Path, entry: Entry) -> None:
    """Add a journey to the record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(entry)) + "\n")


def read(paths: Iterable[Path]) -> list[Entry]:
    """All journeys of some records."""
    return [Entry(**json.loads(line)) for path in paths for line in path.read_text().splitlines()]


def table(entries: Sequence[Entry]) -> str:
    """What was drawn, in Markdown."""
    faults, verdicts = Counter[str](), Counter[str]()
    for entry in entries:
        faults.update(entry.faults)
        verdicts[entry.verdict] += 1
    hours = sum(entry.seconds for entry in entries) / 3600
    seeds = sorted({entry.seed for entry in entries})
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    day = time.strftime("%Y-%m-%d", time.gmtime(max(entry.at for entry in entries)))
    rows = [
        ("journeys", f"{len(entries):,} in {hours:.1f} hours, of {len(seeds)} seeds"),
        ("steps", f"{sum(entry.steps for entry in entries):,}"),
        (
            "faults that took place",
            f"{faults.total():,}: " + ", ".join(f"{kind} {count:,}" for kind, count in faults.most_common()),
        ),
        ("without a finding", f"{verdicts['quiet']:,} journeys; {verdicts['refused']:,} had settings that are refused"),
        (
            "with one",
            ", ".join(f"{what} {count}" for what, count in verdicts.most_common() if what not in {"quiet", "refused"})
            or "none",
        ),
        ("machine", f"{day}, two cores of a shared machine ({machine}), `make storm`"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def replace_table(path: Path, text: str) -> None:
    """Put the table where the page has its place."""
    page = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    assert pattern.search(page), f"{path} has no place for the table of the storm"
    path.write_text(pattern.sub(lambda _: f"{_BEGIN}\n{text}\n{_END}", page), encoding="utf-8")
