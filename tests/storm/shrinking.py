"""The shortest journey that still breaks in the same way: steps, faults and settings are left out one by one."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from .journeys import Journey, Step

_BASIC = ("shard_size", "train.max_duration", "train.samples")
"""Settings that only make a journey quick."""


def shrink(
    journey: Journey, breaks: Callable[[Journey], bool], *, seconds: float, now: Callable[[], float] = time.monotonic
) -> Journey:
    """Leave out what the failure does not need, for so long; what is left still breaks."""
    deadline, is_smaller = now() + seconds, True
    while is_smaller:
        is_smaller = False
        for candidate in candidates(journey):
            if now() > deadline:
                return journey
            if breaks(candidate):
                journey, is_smaller = candidate, True
                break
    return journey


def candidates(journey: Journey) -> Iterator[Journey]:
    """The same with less, the largest parts first."""
    steps = journey.steps
    for size in (len(steps) // 2, 1):
        for start in range(len(steps) - size, -1, -max(1, size)):
            if size and len(steps) > size:
                yield replace(journey, steps=steps[:start] + steps[start + size :])
    for place, step in enumerate(steps):
        for simpler in simpler_steps(step):
            yield replace(journey, steps=(*steps[:place], simpler, *steps[place + 1 :]))
    for key in sorted({key for step in steps for key in step.settings} - {*_BASIC}):
        yield replace(journey, steps=tuple(without(step, key) for step in steps))


def simpler_steps(step: Step) -> Iterator[Step]:
    """A step with less of one thing."""
    for fault in step.faults:
        yield replace(step, faults=tuple(each for each in step.faults if each is not fault))
    if step.cold:
        yield replace(step, cold=False)
    if step.ranks > 1:
        yield replace(step, ranks=step.ranks // 2)
    if step.workers > 1 or (step.workers and step.kind == "train"):
        yield replace(step, workers=0 if step.kind == "train" else 1)
    if step.place == "store":
        yield replace(step, place="local")


def without(step: Step, key: str) -> Step:
    """A step whose setting has its default; settings that need it go, too."""
    gone = {key} | ({"checkpoint.state_dict"} if key == "train.sharding" else set())
    gone |= {
        each
        for each in step.settings
        if key == "masking.site" and each.startswith(("masking.schedule", "masking.final"))
    }
    return replace(step, settings={name: value for name, value in step.settings.items() if name not in gone})
