"""All tasks one after the other, as `tasks=all` runs them: for two models, on two ranks, killed and resumed."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pytest

from meap.evals.ranks import Ranks
from meap.evals.responses import read_responses
from meap.evals.runner import run_tasks
from meap.evals.tasks import TASKS

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """Ranks of one process."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def wait(self):
        self.barrier.wait(timeout=120)


class KilledError(Exception):
    pass


class DyingLM:
    """A model that answers for some calls, and then is killed."""

    def __init__(self, model, calls):
        self._model = model
        self._left = calls

    def __getattr__(self, name):
        found = getattr(self._model, name)
        if name not in {"generate", "loglikelihoods", "attention"}:
            return found

        def ask(*arguments, **named):
            self._left -= 1
            if self._left < 0:
                raise KilledError
            return found(*arguments, **named)

        return ask


@pytest.fixture(scope="module")
def inputs(make_inputs, commonsense_dir, articles):
    return make_inputs(f"commonsense.data_dir={commonsense_dir}", *articles, "limit=4", "batch_size=1")


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Examples are made once, being a function of the inputs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, task in list(TASKS.items()):
            made = []
            patch.setitem(TASKS, name, dataclasses.replace(task, examples=partial(make_once, task.examples, made)))
        yield


def make_once(make, made, inputs):
    if not made:
        made.append(make(inputs))
    return made[0]


def responses_of(folder):
    found = {name: read_responses(folder, name) for name in TASKS}
    return {name: [each | {"seconds": 0} for each in some] for name, some in found.items()}


def run_on_ranks(inputs, models, folder):
    """As many threads as models; the first failure stops all, as a launcher does."""
    barrier = threading.Barrier(len(models))

    def run(rank):
        try:
            return run_tasks(inputs, models[rank], list(TASKS), folder, ranks=ThreadRanks(rank, len(models), barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(len(models)) as pool:
        return list(pool.map(run, range(len(models))))


@pytest.fixture(scope="module")
def alone(quick, inputs, blind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return run_tasks(inputs, blind, list(TASKS), folder), responses_of(folder)


def test_a_second_model_in_the_folder_gets_its_own_answers(inputs, alone, oracle, blind, tmp_path):
    perfect = oracle([each for task in TASKS.values() for each in task.examples(inputs)])
    run_tasks(inputs, perfect, list(TASKS), tmp_path)
    before = responses_of(tmp_path)
    results = run_tasks(inputs, blind, list(TASKS), tmp_path)
    assert list(results["tasks"]) == list(TASKS)
    for name in TASKS:
        assert responses_of(tmp_path)[name] == alone[1][name], name
        assert (before[name] == alone[1][name]) == name.startswith("attention"), name


@pytest.mark.parametrize("calls", [3, 40])
def test_two_ranks_killed_and_resumed_have_the_records_of_one(inputs, alone, blind, tmp_path, calls):
    with pytest.raises((KilledError, threading.BrokenBarrierError)):
        run_on_ranks(inputs, [blind, DyingLM(blind, calls // 2)], tmp_path)
    first, second = run_on_ranks(inputs, [blind, blind], tmp_path)
    assert second == {}
    for name in TASKS:
        assert responses_of(tmp_path)[name] == alone[1][name], name
        for kind in ("metrics", "rows"):
            assert first["tasks"][name][kind] == alone[0]["tasks"][name][kind], name
    assert not (tmp_path / "unfinished").exists()
