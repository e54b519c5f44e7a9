"""Dollars that may be spent by requests that run side by side."""

from __future__ import annotations

import threading

from meap.errors import JudgeError

__all__ = ["Budget"]


class Budget:
    """What is left of a sum, of which requests reserve what they cost at most before they are sent.

    Args:
        most: Dollars that may be spent.
        spent: Dollars that earlier runs have spent.
    """

    def __init__(self, most: float, spent: float) -> None:
        self._most = most
        self._spent = spent
        self._reserved: list[float] = []
        self._changed = threading.Condition()

    def reserve(self, dollars: float) -> None:
        """Set `dollars` aside; waits for other requests where they may turn out to cost less than they reserved.

        Raises:
            JudgeError: There is not enough left.
        """
        with self._changed:
            while self._spent + sum(self._reserved) + dollars > self._most:
                if not self._reserved:
                    raise JudgeError(
                        f"judge.max_cost={self._most:g} dollars: {self._spent:.4f} are spent, and the next request "
                        f"could cost {dollars:.4f}; what was answered is kept: raise judge.max_cost and run the "
                        "same command again to go on"
                    )
                self._changed.wait()
            self._reserved.append(dollars)

    def settle(self, reserved: float, spent: float) -> None:
        """Give back what was reserved, and take what was spent of it."""
        with self._changed:
            self._reserved.remove(reserved)
            self._spent += spent
            self._changed.notify_all()
