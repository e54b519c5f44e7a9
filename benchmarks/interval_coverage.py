"""How often the 95 % intervals of evaluations hold, and how often equal models are called different.

    python benchmarks/interval_coverage.py [draws=4000]

Each draw is an evaluation of models whose true scores are known: questions that differ in difficulty, each asked at
several positions, so that answers to one question agree more than answers to two. Prints the share of draws in which
the interval holds the truth, by the number of questions. The peer is the percentile bootstrap over single answers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from meap.evals.decay import change
from meap.evals.scoring import Group, estimate, paired_difference

SIZES = (5, 10, 20, 50, 200, 500)
"""Numbers of questions."""
POSITIONS = (1, 5)
CORRELATIONS = (0.0, 0.4, 1.0)
"""Of answers to the same question: 1 if it is right at all positions or at none."""

Found = tuple[float | None, float | None, float]
"""Interval and truth."""


@dataclass(frozen=True)
class Design:
    """The questions of an evaluation."""

    questions: int
    positions: int = 1
    correlation: float = 0.0
    blocks: int = 1
    """Sets of questions that have nothing in common, such as benchmarks."""

    def groups(self, answers: np.ndarray) -> list[Group]:
        """Rows of a table, one per block and position, from answers (block, question, position)."""
        return [
            Group(answers[block, :, position], clusters=[f"{block}-{index}" for index in range(self.questions)])
            for block in range(self.blocks)
            for position in range(self.positions)
        ]

    def chances(self, rng: np.random.Generator, mean: float) -> np.ndarray:
        """Chance of a right answer by block and question."""
        shape = (self.blocks, self.questions, 1)
        if self.positions == 1 or self.correlation == 0:
            return np.full(shape, mean)
        if self.correlation == 1:
            return (rng.random(shape) < mean).astype(float)
        size = 1 / self.correlation - 1
        return rng.beta(mean * size, (1 - mean) * size, shape)

    def answers(self, rng: np.random.Generator, mean: float) -> np.ndarray:
        """Right and wrong answers."""
        shape = (self.blocks, self.questions, self.positions)
        return (rng.random(shape) < self.chances(rng, mean)).astype(float)


def designs(sizes: tuple[int, ...] = SIZES) -> Iterator[Design]:
    """All designs: questions by positions by correlation, and several blocks."""
    for size in sizes:
        yield Design(size)
        yield Design(size, blocks=4)
        for correlation in CORRELATIONS:
            yield Design(size, POSITIONS[-1], correlation)


def share_of_right(rng: np.random.Generator, design: Design) -> Found:
    """A share of right answers, at any true share."""
    mean = rng.random()
    found = estimate(design.groups(design.answers(rng, mean)), bounded=True)
    return found.low, found.high, mean


def share_in_part(rng: np.random.Generator, design: Design) -> Found:
    """A mean of scores in [0, 1], such as ROUGE, that vary about the chance of a right answer."""
    mean = rng.uniform(0.1, 0.9)
    chances = np.broadcast_to(design.chances(rng, mean), (design.blocks, design.questions, design.positions))
    spread = 10 ** rng.uniform(0, 1)
    inner = chances.clip(1e-9, 1 - 1e-9)
    scores = rng.beta(spread * inner, spread * (1 - inner))
    found = estimate(design.groups(scores), bounded=True)
    return found.low, found.high, mean


def difference_of_shares(rng: np.random.Generator, design: Design) -> Found:
    """The difference of two models that agree on some questions."""
    first, second, agreeing = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.random() < 0.5
    state = rng.bit_generator.state
    one = design.answers(rng, first)
    if agreeing:  # the same luck
        rng.bit_generator.state = state
    other = design.answers(rng, second)
    found = paired_difference(design.groups(one), design.groups(other), bounded=True)
    return found.low, found.high, second - first


def mean_loss(rng: np.random.Generator, design: Design) -> Found:
    """A mean of measurements without bounds."""
    shape = (design.blocks, design.questions, design.positions)
    effects = np.sqrt(design.correlation) * rng.normal(size=(*shape[:2], 1))
    values = 3 + effects + np.sqrt(1 - design.correlation) * rng.normal(size=shape)
    found = estimate(design.groups(values))
    return found.low, found.high, 3.0


def ratio_of_attention(rng: np.random.Generator, design: Design) -> Found:
    """The decay of attention: a ratio of two means over the same sequences."""
    common = rng.normal(1, 0.2, design.questions)
    before = common + rng.normal(0, 0.1, design.questions)
    after = 0.6 * common + rng.normal(0, 0.1, design.questions)
    found = change(before, after, sign=-1)
    return found.low, found.high, 0.4


INTERVALS: dict[str, Callable[[np.random.Generator, Design], Found]] = {
    "share of right answers": share_of_right,
    "share, right in part": share_in_part,
    "difference of shares": difference_of_shares,
    "mean loss": mean_loss,
    "ratio of attention": ratio_of_attention,
}


def coverage(name: str, design: Design, draws: int, *, seed: int = 0) -> float:
    """Share of draws whose interval holds the truth."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(draws):
        low, high, truth = INTERVALS[name](rng, design)
        held += low is not None and high is not None and low - 1e-9 <= truth <= high + 1e-9
    return held / draws


def false_alarms(design: Design, draws: int, *, level: float = 0.05, seed: int = 0) -> float:
    """Share of draws in which two equally good models differ at the level."""
    rng = np.random.default_rng(seed)
    alarms = 0
    for _ in range(draws):
        mean = rng.uniform(0.1, 0.9)
        pair = (design.groups(design.answers(rng, mean)) for _ in range(2))
        alarms += paired_difference(*pair, bounded=True).p < level
    return alarms / draws


def bootstrap_coverage(design: Design, draws: int, *, seed: int = 0) -> float:
    """Coverage of the percentile bootstrap over single answers, which takes each for a question of its own."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(draws):
        mean = rng.random()
        answers = design.answers(rng, mean).ravel()
        drawn = rng.binomial(len(answers), answers.mean(), 1000) / len(answers)
        low, high = np.quantile(drawn, (0.025, 0.975))
        held += low <= mean <= high
    return held / draws


def main() -> None:
    """Print the tables."""
    draws = int(dict(each.split("=") for each in sys.argv[1:]).get("draws", 4000))
    columns = "".join(f"{size:>8}" for size in SIZES)
    print(f"{'coverage of 95 % intervals, questions:':<62}{columns}")
    kinds = [(each.positions, each.correlation, each.blocks) for each in designs(SIZES[:1])]
    for name in INTERVALS:
        for positions, correlation, blocks in kinds[:1] if name.startswith("ratio") else kinds:
            found = [coverage(name, Design(size, positions, correlation, blocks), draws) for size in SIZES]
            label = f"{name}, {positions} positions, correlation {correlation:g}, {blocks} blocks"
            print(f"{label:<62}" + "".join(f"{100 * each:8.1f}" for each in found), flush=True)
    print(f"\n{'equal models that differ at 0.05':<62}{columns}")
    for positions, correlation, blocks in kinds:
        found = [false_alarms(Design(size, positions, correlation, blocks), draws) for size in SIZES]
        label = f"{positions} positions, correlation {correlation:g}, {blocks} blocks"
        print(f"{label:<62}" + "".join(f"{100 * each:8.1f}" for each in found), flush=True)
    print(f"\n{'peer: percentile bootstrap over answers':<62}{columns}")
    for positions, correlation, blocks in kinds:
        found = [bootstrap_coverage(Design(size, positions, correlation, blocks), draws) for size in SIZES]
        label = f"{positions} positions, correlation {correlation:g}, {blocks} blocks"
        print(f"{label:<62}" + "".join(f"{100 * each:8.1f}" for each in found), flush=True)


if __name__ == "__main__":
    main()
