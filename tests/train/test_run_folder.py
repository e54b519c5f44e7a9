"""What may and may not change between two starts of a run."""

import pytest

from meap.config import RecipeConfig, Role, flatten, load_config, role_of, save_config, to_values
from meap.errors import MismatchError
from meap.run_files import CONFIG_NAME, METRICS_NAME
from meap.train.run_folder import _require_same_run, require_same_settings

pytestmark = pytest.mark.fault(8)

STREAMS = ("data.streams.web.remote=a", "data.streams.web.proportion=2")


@pytest.fixture
def start(tmp_path):
    def run(*overrides: str) -> None:
        config = load_config(RecipeConfig, None, [f"run.dir={tmp_path}", *overrides])
        require_same_settings(config)
        save_config(config, tmp_path / CONFIG_NAME)
        (tmp_path / METRICS_NAME).touch()

    return run


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("data.streams.web.proportion=3", r"data\.streams\.web\.proportion=2\.0, not 3\.0"),
        ("data.batching_method=stratified", r"data\.batching_method=random, not stratified"),
        ("data.sampling_method=fixed", r"data\.sampling_method=balanced, not fixed"),
        ("data.shuffle_algo=py2s", r"data\.shuffle_algo=py1e, not py2s"),
    ],
)
def test_what_decides_the_samples_is_fixed(start, changed, message):
    start(*STREAMS)
    with pytest.raises(MismatchError, match=f"holds a run with {message}: give this run another run.name"):
        start(*STREAMS, changed)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (
            "code web",
            "web",
            r"on data\.streams code, web, not on data\.streams web",
        ),
        (
            "web",
            "code web",
            r"on data\.streams web, not on data\.streams code, web",
        ),
        (
            "web",
            "text",
            r"on data\.streams web, not on data\.streams text",
        ),
        ("", "web", r"on data\.remote alone, not on data\.streams web"),
        ("web", "", r"on data\.streams web, not on data\.remote alone"),
    ],
)
def test_streams_cannot_come_go_or_change_their_names(start, before, now, message):
    def streams(names: str) -> list[str]:
        return [f"data.streams.{name}.{each}" for name in names.split() for each in (f"remote={name}", "proportion=1")]

    start(*streams(before))
    with pytest.raises(MismatchError, match=f"holds a run {message}: a stream cannot come, go or change its name"):
        start(*streams(now))


def test_how_the_samples_are_fetched_may_change(start, capsys):
    start(*STREAMS)
    start(*STREAMS, "data.cache_limit=10gb", "data.validate_hash=false", "data.predownload=64", "data.keep_zip=true")
    assert "with data.cache_limit=10gb (was None)" in capsys.readouterr().out


def test_each_key_that_decides_the_result_stays_and_each_other_is_logged(capsys, record_property):
    before = flatten(to_values(load_config(RecipeConfig, None, STREAMS)))
    for key, was in before.items():
        role, change = role_of(key), lambda key=key: _require_same_run("runs/x", before, before | {key: "another"})
        if role is Role.RESULT:
            with pytest.raises(MismatchError) as refused:
                change()
            assert str(refused.value).startswith(f"runs/x holds a run with {key}={was}, not another: ")
            continue
        change()
        line = f"continuing runs/x with {key}=another (was {was})"
        printed = capsys.readouterr().out
        if role is Role.SOURCE and key.startswith("data."):
            assert printed == ""  # said where the rows are compared
        else:
            assert printed.removesuffix("; schedules that go by the length of the run are stretched to it\n") in {
                line,
                f"{line}\n",
            }
    record_property("injected", len(before))


def test_what_a_longer_run_does_to_its_schedules_and_what_to_do_about_another_base_is_said(start, capsys):
    start("model.base=runs/a/hf")
    start("model.base=runs/a/hf", "train.max_duration=2000ba")
    assert "max_duration=2000ba (was 190000ba); schedules that go by the length of the run are stretched to it" in (
        capsys.readouterr().out
    )
    with pytest.raises(MismatchError, match=r"model.base=runs/a/hf, not runs/b/hf: .*leave model.base as it was"):
        start("model.base=runs/b/hf")


@pytest.mark.parametrize(
    "changed",
    [
        "masking.ratio=0.2",
        "run.seed=18",
        "data.seq_len=2048",
        "train.global_batch_size=512",
    ],
)
def test_another_run_is_refused_with_both_values(start, changed):
    key, given = changed.split("=")
    start()
    before = flatten(to_values(load_config(RecipeConfig, None)))[key]
    with pytest.raises(MismatchError, match=rf"holds a run with {key}={before}, not {given}: give this run another"):
        start(changed)
    start()
