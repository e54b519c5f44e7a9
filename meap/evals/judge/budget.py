"""Dollars that concurrent requests may spend."""

from __future__ import annotations

import threading

from meap.errors import JudgeError

__all__ = ["Budget"]


class Budget:
    """A budget in which a request reserves its highest cost before it is sent.

    Args:
        most: Dollars that may be spent.
        spent: Dollars that earlier evaluations have spent.
    """

    def __init__(self, most: float, spent: float) -> None:
        self._most = most
        self._spent = spent
        self._reserved: list[float] = []
        self._changed = threading.Condition()

    def reserve(self, dollars: float) -> None:
        """Reserve `dollars`; wait for other requests if they may cost less than they reserved.

        Raises:
            JudgeError: The budget does not suffice.
        """
        with self._changed:
            while self._spent + sum(self._reserved) + dollars > self._most:
                if not self._reserved:
                    raise JudgeError(
                        f"judge.max_cost={self._most:g} dollars: {self._spent:.4f} are spent, and the next request "
                        f"could cost {dollars:.4f}; replies so far are kept: raise judge.max_cost and run the "
                        "same command again to continue"
                    )
                self._changed.wait()
            self._reserved.append(dollars)

    def settle(self, reserved: float, spent: float) -> None:
        """Release a reservation and record the dollars spent."""
        with self._changed:
            self._reserved.remove(reserved)
            self._spent += spent
            self._changed.notify_all()
