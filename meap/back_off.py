"""Retries with exponential back-off, a bounded number of times."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import tenacity

from meap.processes import raise_swallowed_request

__all__ = ["BackOff", "GaveUpError"]

ResultT = TypeVar("ResultT")


class GaveUpError(Exception):
    """The last attempt failed; its error is the cause."""

    def __init__(self, error: Exception, attempts: int) -> None:
        super().__init__(f"gave up after {attempts} attempts")
        self.error = error
        self.attempts = attempts


@dataclass(frozen=True)
class BackOff:
    """How often to try, and how long to wait between attempts."""

    attempts: int
    first_wait: float
    """Seconds before the second attempt, doubled before each further one."""
    longest_wait: float = math.inf
    """Seconds."""
    spread: tuple[float, float] = (1.0, 1.0)
    """Jitter: each wait is multiplied by a random number in this range, so that processes do not retry together."""
    patience: float = math.inf
    """Seconds after which no further attempt begins."""

    def run(
        self,
        act: Callable[[], ResultT],
        *,
        is_final: Callable[[Exception], bool],
        may_pass: Callable[[Exception], bool] = lambda error: False,
        asked_wait: Callable[[Exception], float] = lambda error: 0.0,
        sleep: Callable[[float], Any] = time.sleep,
    ) -> ResultT:
        """Return what `act` returns.

        Args:
            act: What to try.
            is_final: Whether another attempt would fail in the same way.
            may_pass: Whether it is worth more than `attempts`: then `patience` alone ends.
            asked_wait: Seconds that the failed call asks for: a lower bound of the wait, below `longest_wait`.
            sleep: Sleeps for the given seconds.

        Raises:
            GaveUpError: An attempt failed permanently, or the last one failed.
        """

        def wait(state: tenacity.RetryCallState) -> float:
            spread = random.uniform(*self.spread)  # noqa: S311 (not for secrets)
            doubled = spread * self.first_wait * 2 ** (state.attempt_number - 1)
            return min(self.longest_wait, max(asked_wait(_error_of(state)), doubled))

        def is_repeated(state: tenacity.RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            return isinstance(error, Exception) and not is_final(error)

        def is_over(state: tenacity.RetryCallState) -> bool:
            is_tried = state.attempt_number >= self.attempts and not may_pass(_error_of(state))
            return is_tried or (state.seconds_since_start or 0.0) >= self.patience

        retrying = tenacity.Retrying(
            stop=is_over,
            wait=wait,
            retry=is_repeated,
            sleep=sleep,
            reraise=True,
        )

        def attempt() -> ResultT:
            try:
                return act()
            except Exception as error:
                raise_swallowed_request(error)
                raise

        try:
            return retrying(attempt)
        except Exception as error:
            raise GaveUpError(error, retrying.statistics["attempt_number"]) from error


def _error_of(state: tenacity.RetryCallState) -> Exception:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Exception)
    return error
