"""What may and may not change between two starts of a run."""

import pytest

from meap.config import TrainingConfig, load_config
from meap.errors import MismatchError
from meap.train.run_folder import METRICS_NAME, _flat, _require_same_run, open_run

pytestmark = pytest.mark.fault(8)

MAY_CHANGE = {
    *("run.name", "run.dir", "data.cache_dir", "data.num_workers", "data.predownload", "data.cache_limit"),
    *("data.keep_zip", "data.validate_hash", "data.download_retry", "data.download_timeout", "train.max_duration"),
    *("train.microbatch_size", "train.device", "train.precision", "train.log_interval", "train.sharding"),
    *("train.activation_checkpointing", "train.compile", "train.loss_chunks", "train.eval_interval"),
    *("train.eval_batches", "train.dist_timeout", "checkpoint.folder", "checkpoint.interval", "checkpoint.keep"),
    *("checkpoint.state_dict", "checkpoint.autoresume", "loggers.tensorboard", "loggers.wandb"),
    *("loggers.wandb_project", "loggers.wandb_entity", "loggers.mlflow", "loggers.mlflow_tracking_uri"),
    *("loggers.mlflow_experiment", "export.checkpoint", "export.out_dir", "export.keep_mask", "export.dtype"),
    *("export.max_shard_size",),
}
"""How a run is computed, stored and watched; all other keys say which run it is."""

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


def test_each_key_that_says_which_run_it_is_stays_and_each_other_is_logged(capsys, record_property):
    before = _flat(load_config(TrainingConfig, None))
    assert before.keys() >= MAY_CHANGE
    for key, was in before.items():
        if key in MAY_CHANGE:
            _require_same_run("runs/x", before, before | {key: "another"})
            assert capsys.readouterr().out == f"continuing runs/x with {key}=another (was {was})\n"
        else:
            with pytest.raises(MismatchError) as refused:
                _require_same_run("runs/x", before, before | {key: "another"})
            assert str(refused.value).startswith(f"runs/x holds a run with {key}={was}, not another: give this run")
    record_property("injected", len(before))


@pytest.mark.parametrize(
    "changed",
    [
        "masking.ratio=0.2",
        "run.seed=18",
        "data.seq_len=2048",
        "data.remote=elsewhere",
        "tokenizer.name=another",
        "train.global_batch_size=512",
    ],
)
def test_another_run_is_refused_with_both_values(start, changed):
    key, given = changed.split("=")
    start()
    before = _flat(load_config(TrainingConfig, None))[key]
    with pytest.raises(MismatchError, match=rf"holds a run with {key}={before}, not {given}: give this run another"):
        start(changed)
    start()
