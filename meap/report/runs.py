"""Reads the folder of a run. Missing or broken files are left out with a note; only the metrics must be readable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from meap.config.loading import read_yaml
from meap.config.model import MODEL_SIZES
from meap.errors import ConfigError, DataError
from meap.json_text import parse_json, read_small
from meap.manifest import Manifest
from meap.report.evaluations import Evaluation, read_evaluation
from meap.report.metrics import HOURS, METRICS
from meap.report.series import Series, join_series
from meap.run_files import (
    CONFIG_NAME,
    DATA_DIR,
    EVAL_DIR,
    METRICS_NAME,
    RESULTS_NAME,
    SAMPLES_NAME,
    STARTS_NAME,
    VERSIONS_NAME,
)
from meap.schema import MANIFEST_NAME, TRAIN_SPLIT

__all__ = ["Run", "read_run", "read_runs"]

_MOST_NAMED = 5
_MOST_LINE_BYTES = 1 << 24
_TEXTS = ("prompt", "answer", "expected")


@dataclass(frozen=True)
class Run:
    """What is known of a run."""

    name: str
    """Unique within the report."""
    folder: Path
    series: Mapping[str, Series]
    """By `Metric.key`; only what was recorded."""
    hours: Series | None
    """Hours of training by step."""
    last_step: int
    settings: Mapping[str, Any]
    """Leaves of the configuration by dotted key; none where it is missing."""
    versions: Mapping[str, Any]
    """Software and machines of the first start."""
    starts: Sequence[Mapping[str, Any]]
    """One per start of the training command."""
    evaluations: Mapping[str, Evaluation]
    """Results of `recipes/evaluate.py` by file name without its ending."""
    rows: Mapping[str, str] = field(default_factory=dict[str, str])
    """Fingerprint of the training rows, by the key that names their location."""
    samples: Mapping[int, Sequence[Mapping[str, str]]] = field(default_factory=dict[int, Sequence[Mapping[str, str]]])
    """Prompts, answers and expected texts by step; a resumed run's last ones count."""
    notes: Sequence[str] = field(default=())
    """What is missing or broken."""

    @property
    def resumed_from(self) -> list[int]:
        """Steps from which later starts resumed."""
        steps = [start.get("from_step") for start in self.starts[1:]]
        return [step for step in steps if isinstance(step, int) and step > 0]

    @property
    def planned_steps(self) -> int | None:
        """Steps of the whole run, as its last start had them; None where that is not recorded."""
        steps = self.starts[-1].get("steps") if self.starts else None
        return steps if isinstance(steps, int) else None

    @property
    def tokens_per_step(self) -> int | None:
        """Input tokens of a global batch, where the configuration is known."""
        rows, length = self.settings.get("train.global_batch_size"), self.settings.get("data.seq_len")
        return rows * length if isinstance(rows, int) and isinstance(length, int) else None


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in `folders`, named after them.

    Raises:
        ConfigError: A folder is given twice, or is not that of a run.
        DataError: Metrics are unreadable.
    """
    resolved = [folder.resolve() for folder in folders]
    for number, folder in enumerate(resolved):
        if folder in resolved[:number]:
            raise ConfigError(f"{folders[number]} is given twice: a run is compared with others, name each once")
    return [read_run(folder, name) for folder, name in zip(folders, _names(resolved), strict=True)]


def read_run(folder: Path, name: str) -> Run:
    """One run, see `read_runs`."""
    _require_run(folder)
    notes: list[str] = []
    recorded, last_step = _read_metrics(folder / METRICS_NAME, notes)
    series: dict[str, Series] = {}
    for metric in METRICS:
        known = next((recorded[each] for each in metric.recorded if each in recorded), None)
        if known is not None and known.dropped:
            shown = ", ".join(f"{step:,}" for step in known.dropped[:_MOST_NAMED])
            more = ", ..." if len(known.dropped) > _MOST_NAMED else ""
            notes.append(f"{metric.title.lower()} is not finite at {len(known.dropped):,} of its steps ({shown}{more})")
        if known is not None and len(known.steps):
            series[metric.key] = known
    return Run(
        name=name,
        folder=folder,
        series=series,
        hours=recorded.get(HOURS),
        last_step=last_step,
        settings=_read_settings(folder / CONFIG_NAME, notes),
        versions=_read_object(folder / VERSIONS_NAME, notes),
        starts=_read_starts(folder / STARTS_NAME, notes),
        evaluations=_read_evaluations(folder / EVAL_DIR, notes),
        rows=_read_rows(folder / DATA_DIR, notes),
        samples=_read_samples(folder / SAMPLES_NAME, notes),
        notes=notes,
    )


def _require_run(folder: Path) -> None:
    if folder.is_file():
        raise ConfigError(f"{folder} is a file: give the folder of a run, such as {folder.parent}")
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder {folder}: give folders of runs, such as runs/tiny{_runs_in(folder.parent)}"
        )
    if not (folder / METRICS_NAME).is_file():
        raise ConfigError(
            f"{folder} holds no {METRICS_NAME}, which training writes with its first steps: give the folder of a run "
            f"that has begun{_runs_in(folder)}"
        )


def _runs_in(folder: Path) -> str:
    found = sorted(str(each.parent) for each in folder.glob(f"*/{METRICS_NAME}"))
    return f"; there are {', '.join(found[:_MOST_NAMED])}" if found else ""


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them all apart."""
    for num_parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-num_parts:]) for folder in folders]
        if len(set(names)) == len(names):
            # Control characters are escaped, which a terminal would obey rather than show.
            return [name if name.isprintable() else repr(name)[1:-1] for name in names]
    raise AssertionError(folders)


def _read_metrics(path: Path, notes: list[str]) -> tuple[dict[str, Series], int]:
    wanted = {name for metric in METRICS for name in metric.recorded} | {HOURS}
    steps: dict[str, list[int]] = {name: [] for name in wanted}
    values: dict[str, list[float]] = {name: [] for name in wanted}
    last_step = 0
    for record in _read_lines(path, notes, is_whole=lambda record: type(record.get("step")) is int):
        step = record["step"]
        last_step = max(last_step, step)
        for name in wanted & record.keys():
            value = record[name]
            if isinstance(value, int | float):
                steps[name].append(step)
                values[name].append(value)
    if not last_step:
        raise DataError(
            f"{path} holds no step that can be read: is it the metrics file of a run? Train on, or leave it out"
        )
    return {name: join_series(steps[name], values[name]) for name in wanted if steps[name]}, last_step


def _read_lines(
    path: Path, notes: list[str], *, is_whole: Callable[[dict[str, Any]], bool]
) -> Iterator[dict[str, Any]]:
    """One object per line; incomplete lines, left by a killed run, are counted."""
    broken, is_last_broken = 0, False
    try:
        with path.open("rb") as file:
            for line in iter(partial(file.readline, _MOST_LINE_BYTES), b""):
                try:
                    record = parse_json(line)
                except ValueError:  # also where it is not UTF-8
                    record = None
                is_last_broken = not (isinstance(record, dict) and is_whole(cast("dict[str, Any]", record)))
                if is_last_broken:
                    broken += bool(line.strip())
                else:
                    yield cast("dict[str, Any]", record)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}): check its permissions") from error
    if broken:
        one = "the last line" if is_last_broken else "one line"
        where = f"{one} of {path.name} was" if broken == 1 else f"{broken:,} lines of {path.name} were"
        notes.append(f"{where} broken and left out: a run that is killed while it writes leaves such a line")


def _read_settings(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        notes.append(f"there is no {path.name}, so its settings and tokens are not known")
        return {}
    try:
        settings = dict(_leaves(read_yaml(path)))
    except ConfigError as error:
        notes.append(str(error))
        return {}
    if _brings_sizes(settings):
        return {key: value for key, value in settings.items() if key.removeprefix("model.") not in MODEL_SIZES}
    return settings


def _brings_sizes(settings: Mapping[str, Any]) -> bool:
    """Whether the model has sizes of its own, beside which those of the configuration are unused."""
    base = settings.get("model.base")
    return settings.get("model.config") is not None or (base is not None and not str(base).endswith(".pth"))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(cast("Mapping[str, Any]", value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_object(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = parse_json(read_small(path))
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read and was left out ({error})")
        return {}
    return dict(_leaves(found)) if isinstance(found, dict) else {}


def _read_starts(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [dict(_leaves(record)) for record in _read_lines(path, notes, is_whole=bool)]


def _read_rows(folder: Path, notes: list[str]) -> dict[str, str]:
    """By the copies that a run keeps of its data's manifests, one or one per stream."""
    found: dict[str, str] = {}
    single = folder / TRAIN_SPLIT / MANIFEST_NAME
    for path in [single] if single.is_file() else sorted(folder.glob(f"*/{TRAIN_SPLIT}/{MANIFEST_NAME}")):
        key = "data.remote" if path == single else f"data.streams.{path.parent.parent.name}.remote"
        try:
            found[key] = Manifest.from_json(read_small(path), origin=str(path)).identity
        except (OSError, ValueError, DataError) as error:
            notes.append(f"{path.relative_to(folder.parent)} cannot be read and was left out ({error})")
    return found


def _read_samples(path: Path, notes: list[str]) -> dict[int, list[dict[str, str]]]:
    """By step; of a prompt that a resumed run answered again, the last answer counts."""
    found: dict[int, dict[str, dict[str, str]]] = {}
    if path.is_file():
        for record in _read_lines(path, notes, is_whole=_is_sample):
            texts = {key: record[key] for key in _TEXTS}
            found.setdefault(record["step"], {})[f"{record.get('row')} {texts['prompt']}"] = texts
    return {step: [*by_prompt.values()] for step, by_prompt in sorted(found.items())}


def _is_sample(record: dict[str, Any]) -> bool:
    return type(record.get("step")) is int and all(isinstance(record.get(key), str) for key in _TEXTS)


def _read_evaluations(folder: Path, notes: list[str]) -> dict[str, Evaluation]:
    """By folder: an evaluation writes more than its results, so a name tells which file they are."""
    evaluations: dict[str, Evaluation] = {}
    for path in (*folder.glob(RESULTS_NAME), *sorted(folder.glob(f"*/{RESULTS_NAME}"))):
        where = path.parent.relative_to(folder.parent).as_posix()
        if (found := read_evaluation(path)) is None:
            notes.append(f"{where}/{path.name} holds no results as recipes/evaluate.py writes them; left out")
        else:
            evaluations[where] = found
    return evaluations
