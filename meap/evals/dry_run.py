"""The size of an evaluation, without loading the model."""

from __future__ import annotations

from collections.abc import Sequence

from meap.evals.judge.judging import describe_judging
from meap.evals.runner import choose_examples, reasons_to_skip, require_packages_of
from meap.evals.task import TaskInputs
from meap.evals.tasks import TASKS

__all__ = ["rehearse"]


def rehearse(inputs: TaskInputs, names: Sequence[str], *, max_positions: int) -> None:
    """Make the examples of every task; print their number, their lengths, and the cost of judging them.

    Args:
        inputs: Configuration, tokenizer and data.
        names: Keys of `TASKS`.
        max_positions: Tokens of the model's context.

    Raises:
        MeapError: A task cannot run.
    """
    require_packages_of(names, inputs.config)
    skipped = reasons_to_skip(names, inputs)
    for name in names:
        if name in skipped:
            print(f"skipped {name}: {skipped[name]}")
            continue
        examples, partial = choose_examples(name, inputs, max_positions=max_positions)
        tokens = [example.positions for example in examples]
        too_long = sum(each > max_positions for each in tokens)
        print(
            f"{name:<14} {len(examples):>7,} examples{' (partial)' if partial else ''}, {sum(tokens):,} tokens, the "
            f"longest {max(tokens):,}{f'; {too_long:,} exceed the context and count as wrong' if too_long else ''}"
        )
        if TASKS[name].judging is not None:
            print(f"{'':<14} {describe_judging(examples, inputs.config)}")
