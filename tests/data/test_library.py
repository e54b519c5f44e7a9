"""The library in training loops that are not ours: the docstrings' own examples, against a loop that shares no code."""

import copy
import inspect
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streaming import StreamingDataset
from transformers import LlamaConfig, LlamaForCausalLM

from meap.config import MaskingConfig, SftConfig
from meap.config.masking import EpochMasking
from meap.data import StreamingMaskedDataset, StreamingSFTDataset, collate_rows, open_dataset
from meap.data import dataset as dataset_module
from meap.data.sft import expand_row
from meap.errors import ConfigError, DataError
from meap.masking import MaskRule
from meap.schema import IGNORE_INDEX

ROWS, SEQ_LEN, BATCH, EPOCHS, LR = 96, 16, 8, 3, 1e-3


def examples(owner: Any) -> list[str]:
    """The blocks of code in a docstring, which follow a line that ends in `::`."""
    blocks = re.findall(r"::\n\n((?:(?: {4}.*)?\n)+)", (inspect.getdoc(owner) or "") + "\n")
    return [textwrap.dedent(block) for block in blocks]


LOOP, TRANSFORMERS, COMPOSER = examples(open_dataset)
SFT_LOOP, SFT_TRANSFORMERS = examples(StreamingSFTDataset)


@pytest.fixture(scope="module")
def remote(tmp_path_factory, write_shards) -> Path:
    return write_shards(tmp_path_factory.mktemp("remote"), rows=ROWS, seq_len=SEQ_LEN)


@pytest.fixture(scope="module")
def conversations(tmp_path_factory, write_conversations) -> Path:
    return write_conversations(tmp_path_factory.mktemp("conversations"), seq_len=256)


@pytest.fixture(autouse=True)
def one_thread():
    """A model this small gains nothing from more, and loses much where others are at work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(tokenizer) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def stored_rows(remote: Path) -> list[dict[str, np.ndarray]]:
    """Read by streaming alone."""
    with tempfile.TemporaryDirectory() as copied:
        plain = StreamingDataset(local=shutil.copytree(remote / "train", f"{copied}/train"), batch_size=1)
        return [plain[number] for number in range(len(plain))]


def order_of(remote: Path, local: Path, *, epochs: int) -> list[list[int]]:
    dataset = open_dataset(remote=remote, local=local, labels="shifted", batch_size=BATCH)
    return [[int(sample["sample_id"]) for sample in dataset] for _ in range(epochs)]


def train_by_hand(model, remote: Path, local: Path, tokenizer, *, clip: float | None) -> LlamaForCausalLM:
    """The same training without this project's data classes: rows, masks and loss written out."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    rows = np.stack([row["tokens"] for row in stored_rows(remote)]).astype(np.int64)
    rule = MaskRule(mask_id=tokenizer.mask_id, ratio=0.15, seed=17)
    for epoch, ids in enumerate(order_of(remote, local, epochs=EPOCHS)):
        assert sorted(ids) == list(range(ROWS))
        for start in range(0, ROWS, BATCH):
            chosen = np.array(ids[start : start + BATCH])
            inputs = rule.apply(rows[chosen, :-1], chosen, epoch=epoch)
            log_probabilities = model(torch.from_numpy(inputs)).logits.log_softmax(-1)
            targets = torch.from_numpy(rows[chosen, 1:])[..., None]
            (-log_probabilities.gather(-1, targets).mean()).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return model


def run(example: str, model, remote: Path, folder: Path) -> LlamaForCausalLM:
    model = copy.deepcopy(model)
    names = {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=LR),
        "remote": str(remote),
        "local": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }
    exec(compile(example, "docstring", "exec"), names)
    return model


def heldout_loss(model, remote: Path) -> float:
    rows = torch.from_numpy(np.stack([row["tokens"] for row in stored_rows(remote)]).astype(np.int64))
    with torch.no_grad():
        logits = model(rows[:, :-1]).logits
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))


def same_weights(one, other) -> None:
    for first, second in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "clip"),
    [pytest.param(LOOP, None, id="loop"), pytest.param(TRANSFORMERS, 1.0, id="transformers"),
     pytest.param(COMPOSER, None, id="composer")],
)  # fmt: skip
def test_each_example_trains_as_a_loop_by_hand(example, clip, model, remote, tmp_path, tokenizer):
    expected = train_by_hand(model, remote, tmp_path / "order", tokenizer, clip=clip)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what those trainers warn of is theirs
        found = run(example, model, remote, tmp_path)
    assert heldout_loss(found, remote) == pytest.approx(heldout_loss(expected, remote), abs=1e-5)
    assert abs(heldout_loss(found, remote) - heldout_loss(model, remote)) > 0.01
    same_weights(found, expected)


@pytest.mark.slow
def test_the_examples_of_fine_tuning_train_alike_and_as_a_loop_by_hand(model, conversations, tmp_path, tokenizer):
    tuned = [run(each, model, conversations, tmp_path / str(n)) for n, each in enumerate((SFT_LOOP, SFT_TRANSFORMERS))]
    expected = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(expected.parameters(), lr=LR)
    rule = MaskRule(mask_id=tokenizer.mask_id, ratio=0.10, seed=17)
    rows = stored_rows(conversations)
    (ids,) = order_of(conversations, tmp_path / "order", epochs=1)
    for start in range(0, len(ids), BATCH):
        total, count = torch.zeros(()), 0
        for each in ids[start : start + BATCH]:
            row = expand_row(rows[each], each, seq_len=256, sft=SftConfig(), rule=rule, epoch=0)
            begin = 0
            for length in row["segment_lengths"]:  # each alone, so that none can see another
                inputs, labels = (torch.from_numpy(row[k][begin : begin + length]) for k in ("input_ids", "labels"))
                logits = expected(inputs[None]).logits[0]
                total = total + torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
                count += int((labels != IGNORE_INDEX).sum())
                begin += length
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    for each in tuned:
        same_weights(each, expected)


def test_both_conventions_have_the_same_inputs_masks_and_targets(remote, tmp_path, tokenizer):
    shifted, plain = (
        open_dataset(remote=remote, local=tmp_path / labels, labels=labels, batch_size=BATCH, ratio=0.25)
        for labels in ("shifted", "transformers")
    )
    for epoch, number in ((0, 3), (2, 95)):
        one, other = (each.sample_at(number, epoch=epoch) for each in (shifted, plain))
        assert len(one["input_ids"]) == len(one["labels"]) == SEQ_LEN
        assert len(other["input_ids"]) == len(other["labels"]) == SEQ_LEN + 1
        assert torch.equal(other["input_ids"][:-1], one["input_ids"])
        assert torch.equal(other["labels"][1:], one["labels"])
        assert other["labels"][0] == IGNORE_INDEX
        assert other["input_ids"][-1] == one["labels"][-1] != tokenizer.mask_id


@pytest.mark.parametrize("layout", ["concat", "separate"])
def test_both_conventions_of_fine_tuning_have_the_same_targets(conversations, tmp_path, layout):
    sft = SftConfig(layout, weighting="rows")
    shifted, plain = (
        open_dataset(remote=conversations, local=tmp_path / each, labels=each, batch_size=8, sft=sft)
        for each in ("shifted", "transformers")
    )
    for number in range(48):
        one, other = shifted[number], plain[number]
        assert torch.equal(other["labels"][1:], one["labels"][:-1])
        assert one["labels"][-1] == other["labels"][0] == IGNORE_INDEX
        assert int((other["labels"] != IGNORE_INDEX).sum()) == one["num_targets"]
        for sample in (one, other):
            assert torch.equal(sample["weights"] > 0, sample["labels"] != IGNORE_INDEX)
            assert float(sample["weights"].sum()) == pytest.approx(sample["num_views"])


def test_what_models_of_transformers_say_of_whole_batches_is_the_loss_of_shifted_labels(
    model, remote, conversations, tmp_path
):
    for place in (remote, conversations):
        shifted, plain = (
            collate_rows([dataset[number] for number in range(4)])
            for labels in ("shifted", "transformers")
            for local in [tmp_path / f"{place.name}-{labels}"]
            for dataset in [open_dataset(remote=place, local=local, labels=labels, batch_size=4)]
        )
        positions = {"position_ids": shifted["position_ids"]} if "position_ids" in shifted else {}
        with torch.no_grad():
            logits = model(input_ids=shifted["input_ids"], **positions).logits
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), shifted["labels"].flatten())
        assert model(**plain).loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_who_leaves_labels_open_is_told_once_what_comes_out(remote, tmp_path, caplog):
    dataset_module._warn_of_shifted_labels.cache_clear()
    settings = {"rule": None, "remote": str(remote), "split": "train", "batch_size": 2, "num_canonical_nodes": 1}
    for name in ("a", "b"):
        sample = StreamingMaskedDataset(local=str(tmp_path / name), **settings)[0]
        assert torch.equal(sample["input_ids"][1:], sample["labels"][:-1])
    (said,) = [record.message for record in caplog.records]
    assert said.startswith(
        "labels come shifted: labels[i] is the token after input_ids[i]. Models of transformers shift"
    )
    assert "give labels='transformers' for model(**batch), or labels='shifted' for a loss of your own" in said


def test_all_that_a_yaml_says_of_masks_can_be_given(remote, tmp_path, tokenizer):
    masking = MaskingConfig(
        ratio=0.0, reversed_ratio=0.5, from_epoch={"1": EpochMasking(ratio=0.25, replacement="random")}
    )
    dataset = open_dataset(remote=remote, local=tmp_path, labels="shifted", batch_size=BATCH, masking=masking)
    plain = open_dataset(remote=remote, local=tmp_path / "plain", labels="shifted", batch_size=BATCH, ratio=0)
    direction = tokenizer.with_direction().direction_id
    turned = [[], []]
    for epoch, number in itertools.product((0, 1), range(ROWS)):
        row, stored = dataset.sample_at(number, epoch=epoch), plain.sample_at(number, epoch=0)
        turned[epoch].append(is_turned := row["input_ids"][0] == direction)
        assert tokenizer.mask_id not in row["input_ids"]
        if is_turned:
            tokens = torch.cat([stored["input_ids"], stored["labels"][-1:]]).flip(0)
            assert torch.equal(row["labels"], tokens[: len(row["labels"])])
        elif not epoch:
            assert torch.equal(row["input_ids"], stored["input_ids"])
        if epoch and not is_turned:
            assert int((row["input_ids"] != stored["input_ids"]).sum()) == SEQ_LEN // 4
    assert turned[0] != turned[1]
    assert all(0.3 < sum(each) / ROWS < 0.7 for each in turned)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masking": MaskingConfig(), "ratio": 0.2}, r"ratio=0.2 and masking.ratio=0.15: give one of them"),
        (
            {"masking": MaskingConfig(site="algorithm", schedule="linear", final_ratio=0.3)},
            r"masking.site=algorithm is for the training process: a dataset knows no steps",
        ),
    ],
)
def test_masks_that_a_dataset_cannot_know_are_refused(remote, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        open_dataset(remote=remote, local=tmp_path, labels="shifted", batch_size=BATCH, **settings)


def test_unknown_labels_are_refused(remote, tmp_path):
    with pytest.raises(ConfigError, match=r"labels='hf' is not known: choose 'shifted' .* or 'transformers' for model"):
        open_dataset(remote=remote, local=tmp_path, labels="hf", batch_size=BATCH)


def test_a_place_without_data_is_named_as_it_was_given(tmp_path):
    with pytest.raises(DataError, match=r"^remote=.*nothing is not there: run dataprep/"):
        open_dataset(remote=tmp_path / "nothing", local=tmp_path, labels="shifted", batch_size=BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True], ids=["", "persistent"])
def test_workers_read_after_the_process_has_read_itself(remote, tmp_path, persistent):
    dataset = open_dataset(remote=remote, local=tmp_path, labels="shifted", batch_size=BATCH)
    next(iter(dataset))  # abandoned: its threads are still reading ahead
    assert len(list(dataset)) == ROWS
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, num_workers=2, persistent_workers=persistent)
    for _ in range(2):
        ids = torch.cat([batch["sample_id"] for batch in loader])
        assert sorted(ids.tolist()) == list(range(ROWS))
    if not persistent:
        assert len(list(dataset)) == ROWS


PROCESS = """
import multiprocessing
import pathlib
import sys
import tempfile

def read(remote, local, how):
    from torch.utils.data import DataLoader
    from meap.data import open_dataset
    from meap.data.loader import RowLoader

    dataset = open_dataset(remote=remote, local=local, labels="shifted", batch_size=8)
    next(iter(dataset))
    print(*pathlib.Path(tempfile.gettempdir()).glob("meap-streaming-*"), flush=True)
    make = RowLoader if how == "kept" else DataLoader
    loader = make(dataset, batch_size=8, num_workers=1, persistent_workers=True)
    for batch in loader:
        if how == "error":
            raise ValueError("as a training loop may")
        break
    batches = iter(loader)
    next(batches)
    if how == "kept":
        globals()["kept"] = batches  # to the end of the interpreter
    sys.exit(7)

if __name__ == "__main__":
    if sys.argv[-1] != "forkserver":
        read(*sys.argv[1:])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["meap.data"])
    child = context.Process(target=read, args=sys.argv[1:])  # its workers are not forked from it, either
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "status"), [("break", 7), ("kept", 7), ("error", 1), ("forkserver", 7)])
def test_a_process_that_abandons_its_loader_ends_by_itself_and_leaves_nothing(
    remote, tmp_path, quiet_environment, how, status
):
    script = tmp_path / "script.py"
    script.write_text(PROCESS)
    finished = subprocess.run(
        [sys.executable, str(script), str(remote), str(tmp_path / "cache"), how],
        capture_output=True, text=True, timeout=500, check=False, env=quiet_environment | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert finished.returncode == status, finished.stderr
    assert finished.stderr.splitlines()[-1:] == (["ValueError: as a training loop may"] if how == "error" else [])
    numbers = [line.rpartition("-")[2] for line in finished.stdout.split()]
    assert numbers
    assert not list(tmp_path.glob("meap-streaming-*"))
    for number in numbers:
        assert not [path for path in Path("/dev/shm").iterdir() if path.name.startswith(number)]
