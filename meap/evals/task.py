"""What a task is made of.

    examples(inputs) -> [Example]              pure and seeded: what is asked, as token ids
    LanguageModel    -> Output                 what a model says to an example, or what is measured in it
    score(example, output) -> {metric: value}  pure: how good that is
    judging(config, out_dir)(responses)          scores that are others' opinions, where a task has any
    metrics, by                                which of the scores count, and what the table has rows for
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
"""Value by metric; a metric that is right or wrong is 1.0 or 0.0."""

Response = dict[str, Any]
"""What is kept of an example: ``id``, ``control``, its facts, what the model said, and its scores; JSON values."""

Judging = Callable[[Sequence[Response]], list[Response]]
"""Further columns for the responses of all examples, in their order: scores by somebody who is asked for them."""


class LazyRows(Sequence[NDArray[np.int64]]):
    """Rows that are read when they are asked for.

    Args:
        num_rows: How many there are.
        read: Returns row number ``i``.
    """

    def __init__(self, num_rows: int, read: Callable[[int], NDArray[np.int64]]) -> None:
        self._num_rows = num_rows
        self._read = read

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
    """A row of which the last tokens are scored by their log-likelihood."""

    ids: Ids
    """The whole row, context included, (T,)."""
    scored: int
    """How many of its last tokens are scored, in [1, T)."""


@dataclass(frozen=True, eq=False)
class Example:
    """What is asked of a model: a continuation, the likelihood of some rows, the attention in some, or all of these."""

    id: str
    """Unique within the task, and the same in every run: by it a run resumes, and two models are compared."""
    prompt: Ids = field(default_factory=lambda: np.empty(0, np.int32))
    """What is continued; empty where nothing is generated."""
    max_new_tokens: int = 0
    """How many tokens are generated at most; 0: none."""
    stop: str = ""
    """Text that ends the continuation, itself cut off; empty: none does."""
    candidates: tuple[Candidate, ...] = ()
    """Rows whose likelihood is asked for."""
    readings: tuple[Reading, ...] = ()
    """Rows whose attention is asked for: nothing is said, but measured."""
    answers: tuple[str, ...] = ()
    """Right continuations, any of them; the first is what a perfect model says."""
    right: int | None = None
    """Which candidate is right, where one of them is."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What else is known of it, such as the depth of a needle: columns of the responses; JSON values."""
    control: bool = False
    """Whether it is a control (a question without its context, say): reported beside the others, in no mean of them."""

    @property
    def positions(self) -> int:
        """The longest that a model sees of it."""
        generated = len(self.prompt) + self.max_new_tokens if self.max_new_tokens else 0
        scored = [len(each.ids) - 1 for each in self.candidates]
        return max([generated, *scored, *(len(each.ids) for each in self.readings)])


@dataclass(frozen=True, eq=False)
class Output:
    """What a model says to an example, and what is measured in it."""

    text: str = ""
    """Its continuation, up to the stop."""
    loglikelihoods: tuple[NDArray[np.float64], ...] = ()
    """For each candidate the log-likelihoods of its scored tokens, in nats."""
    attention: tuple[Attention, ...] = ()
    """For each reading."""

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
    """What it is called in tables and pictures."""
    weight: str | None = None
    """Key in `Scores` by which examples are weighed; unset: all the same."""
    binary: bool = False
    """Whether an example is right or wrong: Wilson's interval and McNemar's test, else bootstrap for both; also where
    an example that asks for several things is right in part."""
    bounded: bool = True
    """Whether values lie in [0, 1]: an interval is then not empty where all are the same."""
    higher_is_better: bool | None = True
    """What better means; None: it describes a model that is neither better nor worse for it."""
    chance: Callable[[EvaluationConfig], float] | None = None
    """What a model that knows nothing scores, where that is known."""


@dataclass(frozen=True)
class Contrast:
    """What a comparison of two models has of a task, beside the differences of its metrics."""

    draw: Callable[[Any, dict[str, Any]], None]
    """Draws the numbers of the comparison on matplotlib axes."""
    find: Callable[[Sequence[Response], Sequence[Response]], dict[str, Any]] = lambda first, second: {}
    """Numbers of its own, JSON values, from responses of the same examples."""
    lines: Callable[[dict[str, Any]], list[tuple[str, ...]]] = lambda numbers: []
    """A table of these."""


@dataclass(frozen=True)
class TaskInputs:
    """Everything that examples are made of."""

    config: EvaluationConfig
    tokenizer: Tokenizer
    """The model's own."""
    heldout_rows: Sequence[NDArray[np.int64]] = ()
    """Clean rows of ``seq_len + 1`` ids that were not trained on, read when they are asked for."""
    why_no_rows: str = (
        "there are no held-out rows that the model's tokenizer made: give perplexity.remote=[<prepared data>]"
    )
    """Where there are none; tasks that need them are then skipped."""

    @property
    def start(self) -> list[int]:
        """Ids that every prompt begins with: BOS, unless it is not wanted."""
        return [self.tokenizer.bos_id] if self.config.add_bos else []

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of prompts; special tokens are not added but for what every prompt begins with."""
        start = np.array(self.start, np.int32)
        return [np.concatenate([start, ids.astype(np.int32)]) for ids in self.tokenizer.encode_batch(texts)]


@dataclass(frozen=True)
class Task:
    """A row of the table of tasks."""

    title: str
    """What it is called in tables and pictures."""
    examples: Callable[[TaskInputs], list[Example]]
    score: Callable[[Example, Output], Scores]
    metrics: tuple[Metric, ...]
    """The first that any response has is the headline."""
    by: tuple[str, ...]
    """Facts by which the examples are grouped: one row of the table for each of their combinations."""
    draw: Callable[[Any, dict[str, Any]], None]
    """Draws the numbers of the results file on matplotlib axes."""
    skip: Callable[[TaskInputs], str | None] = lambda inputs: None
    """Why the task cannot be run on these inputs, if it cannot."""
    judging: Callable[[EvaluationConfig, Path], Judging] | None = None
    """Opens the judge of the responses, given the folder of results; not pure, so it runs last and on one rank. It raises at
    once if it cannot judge, and asks nothing twice when an evaluation resumes."""
    further: Callable[[Sequence[Response]], dict[str, Any]] = lambda responses: {}
    """Numbers of its own, beside those that every task has, for the results file and the picture; `notes` are remarks
    that go with the table."""
    packages: Callable[[EvaluationConfig], tuple[str, ...]] = lambda config: ()
    """Modules of the extra [eval] that only some tasks need; they must be there before the first task runs."""
    contrast: Contrast | None = None
    """What a comparison adds; unset: the headline is drawn."""
    files: Callable[[dict[str, Any], Sequence[Response]], dict[str, str]] = lambda numbers, responses: {}
    """Texts of its own, made of its numbers and responses, to lie beside its picture: <task>.<key> each."""
