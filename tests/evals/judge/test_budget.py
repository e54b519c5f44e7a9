"""Dollars that are reserved, spent and given back."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from meap.errors import JudgeError
from meap.evals.judge.budget import Budget


def test_what_is_reserved_cannot_be_spent_by_others():
    budget = Budget(1.0, 0.25)
    budget.reserve(0.5)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(budget.reserve, 0.5)  # fits only when the first turns out to have been cheaper
        budget.settle(0.5, 0.25)
        waiting.result(timeout=60)
    budget.settle(0.5, 0.5)
    with pytest.raises(JudgeError, match="judge.max_cost=1 dollars: 1.0000 are spent, .* could cost 0.1000"):
        budget.reserve(0.1)


def test_requests_side_by_side_never_exceed_the_sum():
    budget = Budget(1.0, 0.0)
    refused = []

    def spend(_):
        try:
            budget.reserve(0.125)
        except JudgeError:
            refused.append(1)
            return 0.0
        budget.settle(0.125, 0.0625)
        return 0.0625

    with ThreadPoolExecutor(8) as pool:
        spent = sum(pool.map(spend, range(40)))
    assert 1 - 0.125 < spent <= 1
    assert len(refused) == 40 - spent / 0.0625


def test_what_costs_nothing_always_fits():
    Budget(0.0, 0.0).reserve(0.0)
