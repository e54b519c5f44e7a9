"""What may succeed later is tried again: a bounded number of times, with waits that double."""

import pytest

from meap.back_off import BackOff, GaveUpError


def run(back_off: BackOff, failures: int, **given) -> tuple[int, list[float]]:
    """How often it was tried until it succeeded, and the waits in between."""
    waits, tried = [], []

    def act() -> int:
        tried.append(None)
        if len(tried) <= failures:
            raise OSError(f"failure {len(tried)}")
        return len(tried)

    return back_off.run(act, is_final=given.pop("is_final", lambda _: False), sleep=waits.append, **given), waits


def test_waits_double_up_to_the_longest():
    assert run(BackOff(5, 0.5, longest_wait=1.5), 4) == (5, [0.5, 1.0, 1.5, 1.5])
    assert run(BackOff(5, 0.5), 0) == (1, [])


def test_waits_are_spread_and_no_shorter_than_asked():
    _, waits = run(BackOff(4, 1.0, spread=(1.0, 1.5)), 3)
    assert all(least <= wait <= 1.5 * least for least, wait in zip((1.0, 2.0, 4.0), waits, strict=True))
    assert run(BackOff(3, 1.0, longest_wait=3.0), 2, asked_wait=lambda _: 9.0)[1] == [3.0, 3.0]


def test_the_last_failure_is_told_with_the_number_of_attempts():
    with pytest.raises(GaveUpError, match="gave up after 3 attempts") as failed:
        run(BackOff(3, 0.1), 9)
    assert (failed.value.attempts, str(failed.value.error)) == (3, "failure 3")
    with pytest.raises(GaveUpError) as failed:
        run(BackOff(3, 0.1), 9, is_final=lambda error: str(error) == "failure 2")
    assert failed.value.attempts == 2


def test_no_attempt_begins_when_patience_is_over():
    with pytest.raises(GaveUpError) as failed:
        run(BackOff(3, 0.1, patience=0.0), 9)
    assert failed.value.attempts == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_not_repeated(error):
    def act() -> None:
        raise error

    with pytest.raises(error):
        BackOff(3, 0.1).run(act, is_final=lambda _: False, sleep=lambda _: pytest.fail("waits"))
