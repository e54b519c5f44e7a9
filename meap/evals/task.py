"""The parts of a benchmark task.

    examples(inputs) -> [Example]              pure and seeded: prompts as token ids
    LanguageModel    -> Output                 the model's response to an example, or measurements of it
    score(example, output) -> {metric: value}  pure: how good the output is
    judging(config, out_dir)(responses)          scores of a judge, if the task has one
    metrics, by                                the reported scores, and the rows of the table
    draw(axes, numbers)                        the picture

All tasks share the rest: asking in batches, resuming, ranks, responses, intervals, tables, comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.config import EvaluationConfig
from meap.evals.lm import Attention, Ids, Reading
from meap.tokenizer import Tokenizer

__all__ = [
    "Candidate",
    "Contrast",
    "Example",
    "Judging",
    "LazyRows",
    "Metric",
    "Output",
    "Response",
    "Scores",
    "Task",
    "TaskInputs",
]

Scores = dict[str, float]
"""Value by metric; a right answer is 1.0, a wrong one 0.0."""

Response = dict[str, Any]
"""The response to an example: ``id``, ``control``, its facts, the model's text, and its scores; JSON values."""

Judging = Callable[[Sequence[Response]], list[Response]]
"""Further columns for the responses to all examples, in order: scores of a judge."""


class LazyRows(Sequence[NDArray[np.int64]]):
    """Rows that are read on access.

    Args:
        num_rows: Number of rows.
        read: Returns row number ``i``.
        source_of: Names the data set of row number ``i``.
    """

    def __init__(
        self,
        num_rows: int,
        read: Callable[[int], NDArray[np.int64]],
        source_of: Callable[[int], str] = lambda index: "",
    ) -> None:
        self._num_rows = num_rows
        self._read = read
        self.source_of = source_of

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self._num_rows))]
        if not 0 <= index < self._num_rows:
            raise IndexError(f"row {index} of {self._num_rows}")
        return self._read(index)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A row whose last tokens are scored by their log-likelihood."""

    ids: Ids
    """The whole row, context included, (T,)."""
    scored: int
    """Number of its last tokens that are scored, in [1, T)."""


@dataclass(frozen=True, eq=False)
class Example:
    """A request to a model: a continuation, the likelihood of rows, the attention in rows, or all of these."""

    id: str
    """Unique within the task, and the same in every evaluation: resuming and comparing use it."""
    prompt: Ids = field(default_factory=lambda: np.empty(0, np.int32))
    """Tokens to continue; empty if nothing is generated."""
    max_new_tokens: int = 0
    """Most tokens to generate; 0: none."""
    stop: str = ""
    """Text that ends the continuation, once it has begun with anything but spaces and newlines, and is removed from it;
    empty: none."""
    candidates: tuple[Candidate, ...] = ()
    """Rows whose likelihood is computed."""
    readings: tuple[Reading, ...] = ()
    """Rows whose attention is read."""
    answers: tuple[str, ...] = ()
    """Right continuations; a perfect model gives the first."""
    right: int | None = None
    """Index of the right candidate; None if there is none."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further facts, such as the depth of a needle: columns of the responses; JSON values."""
    cluster: str = ""
    """Question that it shares with other examples, at other positions or depths; empty: it has its own. Intervals and
    tests count questions, not examples."""
    control: bool = False
    """Whether it is a control, such as a question without its context: reported, but not part of any mean."""

    @property
    def positions(self) -> int:
        """Length of its longest sequence, generated tokens included."""
        generated = len(self.prompt) + self.max_new_tokens if self.max_new_tokens else 0
        scored = [len(each.ids) - 1 for each in self.candidates]
        return max([generated, *scored, *(len(each.ids) for each in self.readings)])


@dataclass(frozen=True, eq=False)
class Output:
    """The output of a model for an example."""

    text: str = ""
    """The continuation, up to the stop."""
    loglikelihoods: tuple[NDArray[np.float64], ...] = ()
    """Log-likelihoods of the scored tokens of each candidate, in nats."""
    attention: tuple[Attention, ...] = ()
    """Attention of each reading."""

    @property
    def sums(self) -> tuple[float, ...]:
        """Log-likelihood of each candidate."""
        return tuple(float(each.sum()) for each in self.loglikelihoods)


@dataclass(frozen=True)
class Metric:
    """One of the scores of a task, and how it is averaged."""

    name: str
    """Key in `Scores`."""
    label: str
    """Its name in tables and pictures."""
    weight: str | None = None
    """Key in `Scores` of the weight of an example; None: equal weights."""
    bounded: bool = True
    """Whether values lie in [0, 1], as shares and right or wrong answers do."""
    higher_is_better: bool | None = True
    """Whether higher is better; None: descriptive, neither better nor worse."""
    chance: Callable[[EvaluationConfig], float] | None = None
    """Chance level, if it is known."""


@dataclass(frozen=True)
class Contrast:
    """What a comparison of two models adds for a task to the differences of its metrics."""

    draw: Callable[[Any, dict[str, Any]], None]
    """Draws the numbers of the comparison on matplotlib axes."""
    find: Callable[[Sequence[Response], Sequence[Response]], dict[str, Any]] = lambda first, second: {}
    """Further numbers, JSON values, from the responses of both models to the same examples."""
    tables: Callable[[dict[str, Any]], list[list[tuple[str, ...]]]] = lambda numbers: []
    """Tables of these, each with a header."""


@dataclass(frozen=True)
class TaskInputs:
    """The inputs of `Task.examples`."""

    config: EvaluationConfig
    tokenizer: Tokenizer
    """The model's own."""
    heldout_rows: LazyRows = field(default_factory=lambda: LazyRows(0, lambda index: np.empty(0, np.int64)))
    """Clean held-out rows of ``seq_len + 1`` ids, read on access."""
    why_no_rows: str = "no held-out rows of the model's tokenizer are given: set perplexity.remote=[<prepared data>]"
    """The reason if there are none; tasks that need them are then skipped."""

    @property
    def start(self) -> list[int]:
        """Ids that every prompt begins with: BOS if `add_bos` is set and the tokenizer has one."""
        bos_id = self.tokenizer.bos_id
        return [] if bos_id is None or not self.config.add_bos else [bos_id]

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of prompts; no special tokens are added but `start`."""
        start = np.array(self.start, np.int32)
        return [np.concatenate([start, ids.astype(np.int32)]) for ids in self.tokenizer.encode_batch(texts)]


@dataclass(frozen=True)
class Task:
    """A benchmark task."""

    title: str
    """Its name in tables and pictures."""
    examples: Callable[[TaskInputs], list[Example]]
    score: Callable[[Example, Output], Scores]
    metrics: tuple[Metric, ...]
    """The first that any response has is the headline."""
    by: tuple[str, ...]
    """Facts that group the examples: each combination of their values is a row of the table."""
    draw: Callable[[Any, dict[str, Any]], None]
    """Draws the numbers of the results file on matplotlib axes."""
    skip: Callable[[TaskInputs], str | None] = lambda inputs: None
    """Why the task cannot run on these inputs; None if it can."""
    judging: Callable[[EvaluationConfig, Path], Judging] | None = None
    """Opens the judge of the responses, given the folder of results; not pure, so it runs last, on one rank. It raises
    at once if it cannot judge, and asks nothing twice when an evaluation resumes."""
    further: Callable[[Sequence[Response]], dict[str, Any]] = lambda responses: {}
    """Further numbers for the results file and the picture; `notes` are remarks on the table."""
    tables: Callable[[dict[str, Any]], list[list[tuple[str, ...]]]] = lambda numbers: []
    """Further tables of these, each with a header."""
    packages: Callable[[EvaluationConfig], tuple[str, ...]] = lambda config: ()
    """Modules of the extra [eval] that this task needs; checked before the first task runs."""
    contrast: Contrast | None = None
    """What a comparison adds; None: it draws the headline."""
    files: Callable[[dict[str, Any], Sequence[Response]], dict[str, str]] = lambda numbers, responses: {}
    """Further files beside its picture, by key: <task>.<key>."""
