"""What an experiment declares before it is run: question, arms, endpoint, tests, and what would refute it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from meap.config.checks import require_at_least, require_one_of
from meap.errors import ConfigError

__all__ = [
    "ArmConfig",
    "ContrastConfig",
    "DatasetConfig",
    "ExperimentConfig",
    "MapConfig",
    "MeasureConfig",
    "PictureConfig",
    "PrimaryConfig",
    "StageConfig",
    "TuningConfig",
]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_FEWEST_SEEDS = 2


@dataclass(frozen=True)
class DatasetConfig:
    """Texts, made or read, and their preparation."""

    texts: str = "records"
    """What it is made of: a name in `lab.texts.TEXTS`."""
    source: tuple[str, ...] = ()
    """What `texts` reads, where it reads: files, or packages whose documentation is read."""
    heldout: tuple[str, ...] = ()
    """The same of another source, for the validation split. Unset: a share of the documents."""
    megabytes: float = 18.0
    """Text, in millions of characters; held-out rows of the same source included."""
    seed: int = 0
    """Seed of made texts."""
    vocab_size: int = 1280
    """Ids of the byte-level BPE that is trained on it."""
    tokenizer_of: str | None = None
    """Data set whose tokenizer is taken instead."""
    settings: tuple[str, ...] = ()
    """Keys of the preparation, as its command line takes them."""


@dataclass(frozen=True)
class StageConfig:
    """One training of a run, and what is measured on its model. Stages follow one another in the order of the yaml."""

    recipe: str = "meap_1b"
    """Entry point in recipes/: `meap_1b` or `meap_sft`."""
    yaml: str = ""
    """The training's yaml; the experiment sets name, folder, seed and data."""
    data: str = ""
    """Data set that it trains on."""
    shared: bool = False
    """Whether all arms of a seed continue from it: it is trained once per seed, without the settings of an arm."""
    settings: tuple[str, ...] = ()
    """Keys of the training. `{name}` stands for the folder of another stage of the run, or of a data set."""
    evaluation: str | None = None
    """The evaluation's yaml. A model that no measure needs evaluated is not exported either."""
    evaluation_settings: tuple[str, ...] = ()
    """Keys of the evaluation, with the same placeholders."""


@dataclass(frozen=True)
class ArmConfig:
    """One way to train."""

    label: str = ""
    """Its name in tables and pictures."""
    settings: tuple[str, ...] = ()
    """Keys of all trainings that are not shared, or of one stage: `stage:key=value`."""
    seeds: int | None = None
    """Number of seeds, from the first. Unset: all."""


@dataclass(frozen=True)
class MeasureConfig:
    """A number that every run has."""

    label: str = ""
    """Its name in tables."""
    stage: str = ""
    """Stage that it is measured on."""
    metric: str = "metrics/heldout/loss"
    """Of training, a key of metrics.jsonl; of the evaluation, `task.metric`, and `task.metric[by=value,...]` for the
    mean of some rows of its table; a value may have wildcards."""
    at: str = "last"
    """Of a metric of training: its `last` value, its `best` (lowest), or that at the end of an epoch, such as `4ep`."""
    percent: bool = False
    """Whether it is shown in percent."""
    scale: float = 1.0
    """What it is multiplied by where it is shown; its label says so."""
    chance: float | None = None
    """Value of a guess."""


@dataclass(frozen=True)
class ContrastConfig:
    """Two arms in one measure; the difference is arm less control."""

    arm: str = ""
    control: str = ""
    measure: str = ""


@dataclass(frozen=True)
class PrimaryConfig(ContrastConfig):
    """The one contrast that decides, and the words for each outcome."""

    expected: str = "higher"
    """Sign of the difference under the hypothesis: `higher` or `lower`."""
    smallest: float = 0.0
    """Smallest difference that would matter, without sign."""
    supported: str = ""
    """Words for p < 0.05 in the expected direction, with an interval that reaches a difference that would matter."""
    refuted: str = ""
    """Words for p < 0.05 in the other direction, or an interval without any difference that would matter; but not
    where the control is too near to guessing, or to certainty, for such a difference to show."""
    undecided: str = ""
    """Words for all else."""


@dataclass(frozen=True)
class TuningConfig:
    """How each arm gets its value of one key: the best mean over seeds that are not reported."""

    key: str = "optimizer.lr"
    values: tuple[str, ...] = ()
    """What is tried; the first is taken where there is only one."""
    seeds: tuple[int, ...] = (1000,)
    stages: tuple[str, ...] = ()
    """Stages that are run for it, shared ones aside. Unset: all."""
    settings: tuple[str, ...] = ()
    """Keys that make these runs shorter, written as those of an arm."""
    measure: str = ""
    """Measure that chooses; of equals the first value is taken."""
    higher_is_better: bool = False


@dataclass(frozen=True)
class PictureConfig:
    """A panel: one line per arm, means with their intervals over seeds."""

    title: str = ""
    measures: tuple[str, ...] = ()
    """Points of the line, from left to right."""
    x: tuple[float, ...] = ()
    """Their places."""
    curve: str = ""
    """Instead of measures: a measure whose metric of training is drawn over the epochs."""
    x_title: str = ""
    y_title: str = ""
    log_x: bool = False
    arms: tuple[str, ...] = ()
    """Unset: all."""


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything that is fixed before the first run."""

    title: str = ""
    question: str = ""
    hypothesis: str = ""
    refuted_by: str = ""
    """What result would refute the hypothesis, in words; `primary` holds the rule."""
    not_tried: str = ""
    """What the answer does not cover."""
    out_dir: str = "runs/experiment"
    """Folder for corpora, shards, runs and results."""
    parallel: int = 2
    """Concurrent runs."""
    only_report: bool = False
    """Whether results are written from the runs that are finished, without starting any."""
    begin_with: str | None = None
    """A results.json of the same declaration, such as one in experiments/results/: its runs are not run again."""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Seeds of weights, order of rows and masks; runs go seed by seed over all arms."""
    data: dict[str, DatasetConfig] = field(default_factory=dict[str, DatasetConfig])
    stages: dict[str, StageConfig] = field(default_factory=dict[str, StageConfig])
    arms: dict[str, ArmConfig] = field(default_factory=dict[str, ArmConfig])
    tuning: TuningConfig = field(default_factory=TuningConfig)
    measures: dict[str, MeasureConfig] = field(default_factory=dict[str, MeasureConfig])
    primary: PrimaryConfig = field(default_factory=PrimaryConfig)
    secondaries: dict[str, ContrastConfig] = field(default_factory=dict[str, ContrastConfig])
    """Further declared contrasts; their p-values are corrected for their number (Holm)."""
    pictures: dict[str, PictureConfig] = field(default_factory=dict[str, PictureConfig])

    def __post_init__(self) -> None:
        require_at_least("parallel", self.parallel, 1)
        if len(set(self.seeds)) < max(_FEWEST_SEEDS, len(self.seeds)):
            raise ConfigError(f"seeds={list(self.seeds)}: give at least {_FEWEST_SEEDS}, each once")
        if reported := set(self.seeds) & set(self.tuning.seeds):
            raise ConfigError(
                f"tuning.seeds={list(self.tuning.seeds)} shares {min(reported)} with seeds: choose settings on seeds "
                "that are not reported"
            )
        require_one_of("primary.expected", self.primary.expected, ("higher", "lower"))
        names = [*self.data, *self.stages]
        for name in [*names, *self.arms, *self.measures]:
            if not _NAME.fullmatch(name):
                raise ConfigError(f"{name!r} is not a name: use up to 40 lower-case letters, digits and _")
        if len(set(names)) < len(names):
            raise ConfigError("data and stages share a name, so that {name} would mean both: rename one of them")
        for key, value, known in self._references():
            if value not in known:
                raise ConfigError(f"{key}={value} is not declared: choose one of {', '.join(known) or 'none'}")
        for name, arm in self.arms.items():
            if arm.seeds is not None and not _FEWEST_SEEDS <= arm.seeds <= len(self.seeds):
                raise ConfigError(
                    f"arms.{name}.seeds={arm.seeds} is out of range: it must be in [{_FEWEST_SEEDS}, {len(self.seeds)}]"
                )

    def _references(self) -> list[tuple[str, str, Collection[str]]]:
        """Key, value and what it may name."""
        data, stages, arms, measures = (list(each) for each in (self.data, self.stages, self.arms, self.measures))
        found: list[tuple[str, str, Collection[str]]]
        found = [(f"stages.{name}.data", stage.data, data) for name, stage in self.stages.items()]
        found += [(f"measures.{name}.stage", measure.stage, stages) for name, measure in self.measures.items()]
        contrasts = {"primary": self.primary} | {f"secondaries.{name}": each for name, each in self.secondaries.items()}
        for key, contrast in contrasts.items():
            found += [(f"{key}.arm", contrast.arm, arms), (f"{key}.control", contrast.control, arms)]
            found += [(f"{key}.measure", contrast.measure, measures)]
        for name, picture in self.pictures.items():
            named = picture.measures or (picture.curve,)
            found += [(f"pictures.{name}.measures", each, measures) for each in named]
            found += [(f"pictures.{name}.arms", each, arms) for each in picture.arms]
        found += [("tuning.stages", each, stages) for each in self.tuning.stages]
        if len(self.tuning.values) > 1:
            found.append(("tuning.measure", self.tuning.measure, measures))
        return found

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds that an arm is trained with."""
        return self.seeds[: self.arms[arm].seeds]


@dataclass(frozen=True)
class MapConfig:
    """Where results come from."""

    add: tuple[str, ...] = ()
    """Folders of experiments, named as their yamls, whose results.json and picture.png are taken over first."""
