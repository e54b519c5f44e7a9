"""The storm itself: the same journeys of a seed, shortest failures, a table of what is on record."""

import json
from dataclasses import replace

import pytest

from meap.config import PrepConfig, RecipeConfig, SftPrepConfig
from meap.config.keys import config_keys, hint_at, is_section

from . import record
from .faults import statuses
from .journeys import Fault, Journey, Step, draw_journey
from .planted import GUARDS
from .running import ROOT
from .settings import LEFT_OUT, TOGETHER, accepted, choices, is_left_out
from .shrinking import shrink

MANY = [draw_journey(7, number) for number in range(120)]


def test_a_seed_gives_the_same_journeys_and_another_seed_others():
    assert [draw_journey(7, number) for number in range(120)] == MANY
    assert [draw_journey(8, number).steps for number in range(120)] != [each.steps for each in MANY]


def test_a_journey_is_replayed_from_what_is_stored_of_it():
    for journey in MANY:
        assert Journey.from_values(json.loads(json.dumps(journey.to_values()))) == journey


def test_everything_that_can_be_drawn_is():
    steps = [step for journey in MANY for step in journey.steps]
    faults = [fault for step in steps for fault in step.faults]
    assert {each.kind for each in steps} == {
        *(
            "prepare",
            "verify",
            "train",
            "extend",
            "branch",
            "export",
            "evaluate",
            "generate",
            "report",
            "move",
            "cut",
            "anew",
        ),
        *("prepare_chats", "prepare_long"),
    }
    assert {each.kind for each in faults} == {
        *("signal", "stop", "second", "clock", "files", "home", "umask", "store", "disk", "shm", "read_only", "user"),
    }
    assert {each.ranks for each in steps} == {1, 2, 4}
    assert {each.workers for each in steps if each.kind == "train"} == {0, 1, 2, 3}
    assert {each.detail["whom"] for each in faults if each.kind == "signal"} == {"rank", "worker", "launcher", "group"}


@pytest.mark.parametrize("config_class", [PrepConfig, SftPrepConfig, RecipeConfig])
def test_every_key_is_drawn_or_left_out_for_a_reason(config_class):
    drawn = choices(config_class)
    together = {key for offer in TOGETHER[config_class] for key in offer} | {"masking.from_epoch"}
    keys = {key for key in config_keys(config_class) if not is_section(hint_at(config_class, key.split(".")))}
    keys = {key for key in keys if "<" not in key and not is_left_out(key)}
    assert keys - drawn.keys() - together == set()
    assert all(accepted(config_class, {key: value}) for key, values in drawn.items() for value in values)


def test_no_reason_is_given_for_a_key_that_is_not_there():
    keys = {key for each in (PrepConfig, SftPrepConfig, RecipeConfig) for key in config_keys(each)}
    assert LEFT_OUT.keys() <= keys


@pytest.mark.parametrize(
    "journey", [each for each in MANY if len(each.steps) > 4][:12], ids=lambda each: str(each.number)
)
def test_what_is_shrunk_still_breaks_and_holds_nothing_else(journey):
    """The planted failure: a run of several ranks, trained after data were prepared."""
    fault = Fault("signal", 0.5, "change", {"signal": "SIGKILL", "whom": "group"})
    guilty = Step(
        "train",
        "base",
        {"train.samples": "0", "masking.ratio": "0.5"},
        source=("web",),
        ranks=2,
        workers=1,
        faults=(fault,),
    )
    journey = replace(journey, steps=(*journey.steps, guilty))

    def breaks(candidate: Journey) -> bool:
        steps = [each for each in candidate.steps if each.kind == "train" and each.faults and each.ranks == 2]
        return bool(steps) and any(each.kind == "prepare" for each in candidate.steps)

    prepare, train = shrink(journey, breaks, seconds=60).steps
    assert (prepare.kind, prepare.faults, prepare.place, prepare.workers) == ("prepare", (), "local", 1)
    assert prepare.settings.keys() <= {"shard_size"}
    assert (train.ranks, train.workers, len(train.faults)) == (2, 0, 1)
    assert "masking.ratio" not in train.settings


def test_shrinking_ends_in_time():
    times = iter(range(1000))
    tried: list[Journey] = []

    def breaks(candidate: Journey) -> bool:
        tried.append(candidate)
        return False

    shrink(MANY[0], breaks, seconds=3, now=lambda: float(next(times)))
    assert len(tried) <= 3


@pytest.mark.parametrize("guard", GUARDS, ids=lambda each: each.name)
def test_every_guard_that_planted_bugs_take_out_is_there(guard, tmp_path):
    for name in {each.file for each in guard.edits}:
        (copy := tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((ROOT / name).read_text())
    guard.plant(tmp_path)
    for name in {each.file for each in guard.edits}:
        compile((tmp_path / name).read_text(), name, "exec")
    with pytest.raises(SystemExit, match="its text is 0 times in"):
        guard.plant(tmp_path)


def test_a_second_signal_may_end_a_command_at_once():
    faults = [
        Fault("signal", 0.1, "change", {"signal": "SIGHUP", "whom": "group"}),
        Fault("store", 0.9, "request", {"what": "hang", "method": "GET", "times": 1, "signal": "SIGTERM"}),
    ]
    assert statuses(faults, ["signal"], {}) == {0, 75, -1}
    assert statuses(faults, ["store", "signal", "signal"], {}) == {0, 75, -1, -15, 255, 241}


@pytest.mark.parametrize(
    ("fault", "hits", "allowed"),
    [
        (Fault("signal", 0.1, "pass", {"signal": "SIGTERM", "whom": "group"}), ["signal"], {0, 75}),
        (Fault("signal", 0.1, "pass", {"signal": "SIGTERM", "whom": "group"}), [], {0}),
        (Fault("store", 0.1, "request", {"what": "503", "method": "any", "times": 1}), ["store"], {0}),
        (Fault("store", 0.1, "request", {"what": "503", "method": "any", "times": 999}), ["store"], {0, 1}),
        (Fault("clock", 0.1, detail={"seconds": -3600}), ["clock"], {0}),
        (Fault("disk", detail={"room": 0}), ["disk"], {0, 1, 2}),
    ],
)
def test_a_status_is_true_by_what_the_command_met(fault, hits, allowed):
    assert statuses([fault], hits, {}) == allowed


def test_the_table_tells_all_that_is_on_record(tmp_path):
    entries = [
        record.Entry(1, 0, 4, {"signal": 2}, 1800.0, "quiet", at=0.0),
        record.Entry(1, 1, 6, {"store": 1, "signal": 1}, 1800.0, "losses", "step 3", at=86400.0),
    ]
    for entry in entries:
        record.append(tmp_path / "record.jsonl", entry)
    assert record.read([tmp_path / "record.jsonl"]) == entries
    (page := tmp_path / "page.md").write_text(
        "before\n<!-- storm: written by `make storm` -->\nold\n<!-- /storm -->\nafter\n"
    )
    record.replace_table(page, record.table(entries))
    text = page.read_text()
    assert "old" not in text
    for part in ("2 in 1.0 hours, of 1 seeds", "10", "4: signal 3, store 1", "losses 1", "1970-01-02", "after"):
        assert part in text
