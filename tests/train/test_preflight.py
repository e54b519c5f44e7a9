"""Every mistake that would cost a run later is one clear error before its first step."""

import shutil
from pathlib import Path

import pytest

from meap.config import RecipeConfig, load_config
from meap.data import open_heldout, open_shards
from meap.errors import CheckpointError, ConfigError, IncompleteError, MismatchError
from meap.show.numbers import size
from meap.train.machine import Machine
from meap.train.preflight import check_config, check_ranks, check_room, check_storage, notes
from meap.train.timetable import Timetable

YAMLS = sorted((Path(__file__).resolve().parents[2] / "yamls").rglob("*.yaml"))
FULL_SIZE = [path for path in YAMLS if not path.stem.startswith(("prep_", "eval", "tiny", "sft_tiny"))]


def machine(world_size: int, *, nodes: int = 1) -> Machine:
    return Machine("cpu", "fp32", world_size=world_size, rank=0, ranks_per_node=world_size // nodes)


def check_all(config: RecipeConfig, machine: Machine) -> None:
    """Everything that a run checks before it opens anything."""
    check_config(config)
    check_ranks(config, machine)


@pytest.mark.parametrize(
    ("ranks", "nodes", "overrides", "message"),
    [
        (
            3,
            1,
            ["train.global_batch_size=256"],
            r"does not divide by 3 ranks: start 2 or 4 ranks, or choose a mul",
        ),
        (
            *(8, 1, ["train.global_batch_size=256", "train.microbatch_size=12"]),
            r"microbatch_size=12 does not divide the 32 rows that each of 8 ranks has of .* 256: choose 8 or 16",
        ),
        (
            *(10, 5, ["train.global_batch_size=40", "train.microbatch_size=4", "data.num_canonical_nodes=24"]),
            r"data.num_canonical_nodes=24 does not divide by 5 nodes: .* use 4 or 6 nodes, or .* such as 25",
        ),
        (1, 1, ["train.sharding=full"], r"train.sharding=full shards the model over ranks, but there is 1 rank"),
        (
            *(1, 1, ["train.max_duration=100ba", "scheduler.warmup_duration=100ba"]),
            r"scheduler.warmup_duration=100ba \(100 steps\) leaves nothing of train.max_duration=100ba \(100 steps\)",
        ),
        (
            *(1, 1, ["train.max_duration=1048576tok", "scheduler.warmup_duration=512sp"]),
            r"warmup_duration=512sp \(2 steps\) leaves nothing of train.max_duration=1048576tok \(1 steps\)",
        ),
        (1, 1, ["data.remote=https://me:hunter2@host/c4"], r"data.remote is a URL with a user or password in it"),
        (1, 1, ["checkpoint.folder=s3://me:hunter2@b/c"], r"checkpoint.folder is a URL with a user or password in it"),
    ],
)
def test_settings_that_do_not_fit_each_other_or_the_ranks(ranks, nodes, overrides, message):
    config = load_config(RecipeConfig, None, overrides)
    with pytest.raises(ConfigError, match=message) as refused:
        check_all(config, machine(ranks, nodes=nodes))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("yaml", FULL_SIZE, ids=lambda path: path.stem)
def test_every_full_size_yaml_fits_a_node_of_eight(yaml):
    check_all(load_config(RecipeConfig, yaml), machine(8))


def test_what_happens_at_the_end_only_or_not_at_all_is_mentioned(small_config, tmp_path):
    config = small_config(tmp_path, "train.max_duration=4ba", "train.eval_batches=1", "checkpoint.interval=5ba")
    shards, heldout = open_shards(config.data, "train"), open_heldout(config.data)
    checkpoint, evaluation = notes(config, Timetable.of(config, shards), heldout=heldout)
    assert "checkpoint.interval=5ba is longer than the run of 4 steps: only its end is saved" in checkpoint
    assert "train.eval_interval=1000ba is longer than the run of 4 steps: held-out loss is measured at" in evaluation
    overrides = ("train.max_duration=1ep", "train.log_interval=2ep", "masking.schedule_duration=72sp")
    schedule = ("masking.site=algorithm", "masking.schedule=linear", "masking.final_ratio=0.3")
    config = small_config(tmp_path, *overrides, *schedule)
    log, ratio = notes(config, Timetable.of(config, shards), heldout=None)
    assert "train.log_interval=2ep is longer than the run of 8 steps: only its last step is shown" in log
    assert "masking.schedule_duration=72sp is longer than the run of 8 steps: the ratio does not reach" in ratio
    config = small_config(tmp_path, "train.max_duration=4ba", "train.eval_batches=1")
    (absent,) = notes(config, Timetable.of(config, shards), heldout=None)
    assert "the data hold no validation split, so held-out loss is not measured: prepare them with" in absent
    config = small_config(tmp_path, "train.max_duration=4ba", "train.eval_batches=1", "train.eval_interval=0.5dur")
    assert notes(config, Timetable.of(config, shards), heldout=heldout) == []


def test_too_little_room_is_said_with_both_sizes(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    message = rf"^the disk has {size(free)} free, but the run needs 900.00 TB: buy one$"
    with pytest.raises(ConfigError, match=message):
        check_room("the disk", tmp_path / "not/yet/there", needed=900_000 * 10**9, remedy="buy one")
    check_room("the disk", tmp_path, needed=1, remedy="")


def test_room_for_checkpoints_and_leave_to_write(small_config, tmp_path):
    config = small_config(tmp_path / "run", "train.max_duration=100ba", "checkpoint.keep=2")
    timetable = Timetable.of(config, open_shards(config.data, "train"))
    check_storage(config, machine(1), timetable, num_parameters=1000)
    assert list(Path(config.checkpoint.folder).iterdir()) == []  # what was tried is gone
    with pytest.raises(ConfigError, match=r"the disk of checkpoint\.folder=.*B free, but the run needs .* a check"):
        check_storage(config, machine(1), timetable, num_parameters=10**15)

    (tmp_path / "file").touch()
    config = small_config(tmp_path / "other", f"checkpoint.folder={tmp_path / 'file/below'}")
    with pytest.raises(CheckpointError, match=r"checkpoint\.folder=.* cannot be written \(.*\): check the address"):
        check_storage(config, machine(1), timetable, num_parameters=1000)


@pytest.mark.fault(9)
def test_data_that_does_not_fit_is_refused_before_the_first_step(train, tmp_path, write_shards, tokenizer_dir):
    plain = write_shards(tmp_path / "plain", rows=16, seq_len=16, validation_rows=0)
    remote = f"data.remote={plain}"
    with pytest.raises(IncompleteError, match="is not there: run dataprep"):
        train(tmp_path / "run", f"data.remote={plain / 'validation'}", "train.eval_batches=1")
    with pytest.raises(MismatchError, match=r"data\.seq_len=32, but the rows of .* were packed to 16 tokens: set"):
        train(tmp_path / "run", remote, "data.seq_len=32")
    other = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_dir, other)
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(text.replace('"</s>"', '"</end>"'), encoding="utf-8")
    settings = (other / "tokenizer_config.json").read_text()
    (other / "tokenizer_config.json").write_text(settings.replace("</s>", "</end>"))
    with pytest.raises(MismatchError):
        train(tmp_path / "run", remote, f"tokenizer.name={other}")
    assert not (tmp_path / "run/metrics.jsonl").exists()
