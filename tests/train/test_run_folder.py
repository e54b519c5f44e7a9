"""What may and may not change between two starts of a run."""

import pytest

from meap.config import TrainingConfig, load_config
from meap.errors import MismatchError
from meap.train.run_folder import METRICS_NAME, open_run

STREAMS = ("data.streams.web.remote=a", "data.streams.web.proportion=2")


@pytest.fixture
def start(tmp_path):
    def run(*overrides: str) -> None:
        config = load_config(TrainingConfig, None, [f"run.dir={tmp_path}", *overrides])
        (open_run(config, is_leader=True) / METRICS_NAME).touch()

    return run


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("data.streams.web.proportion=3", r"data\.streams\.web\.proportion=2\.0, not 3\.0"),
        ("data.streams.web.remote=b", r"data\.streams\.web\.remote=a, not b"),
        ("data.batching_method=stratified", r"data\.batching_method=random, not stratified"),
        ("data.sampling_method=fixed", r"data\.sampling_method=balanced, not fixed"),
        ("data.shuffle_algo=py2s", r"data\.shuffle_algo=py1e, not py2s"),
    ],
)
def test_what_decides_the_samples_is_fixed(start, changed, message):
    start(*STREAMS)
    with pytest.raises(MismatchError, match=f"holds a run with {message}: give this run another run.name"):
        start(*STREAMS, changed)


def test_streams_cannot_come_or_go(start):
    more = ("data.streams.code.remote=b", "data.streams.code.proportion=1")
    start(*STREAMS, *more)
    with pytest.raises(MismatchError, match=r"data\.streams\.code\.proportion=1\.0, not None"):
        start(*STREAMS)
    with pytest.raises(MismatchError, match=r"data\.streams\.news\.proportion=None, not 1\.0"):
        start(*STREAMS, *more, "data.streams.news.remote=c", "data.streams.news.proportion=1")


def test_how_the_samples_are_fetched_may_change(start, capsys):
    start(*STREAMS)
    start(*STREAMS, "data.cache_limit=10gb", "data.validate_hash=false", "data.predownload=64", "data.keep_zip=true")
    assert "with data.cache_limit=10gb (was None)" in capsys.readouterr().out
