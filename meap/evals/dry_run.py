"""The size of an evaluation, without loading the model."""

from __future__ import annotations

from collections.abc import Sequence

from meap.evals.judge.judging import describe_judging
from meap.evals.runner import choose_examples, reasons_to_skip, require_packages_of
from meap.evals.task import TaskInputs
from meap.evals.tasks import TASKS

__all__ = ["rehearse"]


def rehearse(inputs: TaskInputs, names: Sequence[str]) -> None:
    """Make the examples of every task; print their number, their lengths, and the cost of judging them.

    Raises:
        MeapError: A task cannot run.
    """
    require_packages_of(names, inputs.config)
    skipped = reasons_to_skip(names, inputs)
    for name in names:
        if name in skipped:
            print(f"skipped {name}: {skipped[name]}")
            continue
        examples, partial = choose_examples(name, inputs)
        tokens = [example.positions for example in examples]
        print(
            f"{name:<14} {len(examples):>7,} examples{' (partial)' if partial else ''}, {sum(tokens):,} tokens, the "
            f"longest {max(tokens):,}"
        )
        if TASKS[name].judging is not None:
            print(f"{'':<14} {describe_judging(examples, inputs.config)}")
