"""What is shown is what the loader yields, sample by sample and epoch by epoch."""

import dataclasses
import errno
import itertools
import re
import shutil

import numpy as np
import pytest
import torch

import meap.inspect.samples
from meap.config import DataConfig, MaskingConfig, SftConfig
from meap.config.commands import InspectConfig
from meap.data import build_loader, build_mask_rule, build_sft_loader, open_shards
from meap.errors import ConfigError, DataError, IncompleteError, MismatchError
from meap.inspect.terminal import print_samples
from meap.manifest import CONVERSATIONS, ROWS, Manifest

KINDS = ((ROWS, 64), (CONVERSATIONS, 512))


def remote_of(kind, rows_remote, sft_remote):
    return rows_remote if kind == ROWS else sft_remote


def load(remote, kind, seq_len, cache, *, masking, sft):
    data = DataConfig(remote=str(remote), seq_len=seq_len, num_canonical_nodes=4, num_workers=0)
    shards = open_shards(data, "train", kind=kind)
    how = {
        "rule": build_mask_rule(masking, shards.tokenizer, seed=5),
        "seed": 5,
        "global_batch_size": 4,
        "world_size": 1,
        "cache_dir": cache,
        "shuffle": True,
    }
    return build_loader(data, shards, **how) if kind == ROWS else build_sft_loader(data, shards, sft, **how)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["concat", "separate"])
@pytest.mark.parametrize(("kind", "seq_len"), KINDS)
def test_a_sample_is_what_the_loader_yields_in_each_epoch(
    kind, seq_len, layout, rows_remote, sft_remote, open_split, tmp_path
):
    remote = remote_of(kind, rows_remote, sft_remote)
    loader = load(
        remote, kind, seq_len, tmp_path / "loader", masking=MaskingConfig(ratio=0.3), sft=SftConfig(layout, "masked")
    )
    options = [f"layout={layout}", "loss=masked"] if kind == CONVERSATIONS else []
    mask_id = loader.dataset._rule.mask_id
    seen: list[dict[int, list[int]]] = []
    for epoch in range(2):
        data = open_split(remote, f"epoch={epoch}", "ratio=0.3", "seed=5", *options)
        seen.append({})
        for batch in loader:
            for place, number in enumerate(batch["sample_id"].tolist()):
                shown = data.dataset.sample_at(number, epoch=epoch)
                assert shown.keys() == batch.keys()
                for name, values in shown.items():
                    same = torch.equal(values, batch[name][place]) if torch.is_tensor(values) else None
                    assert same if same is not None else values == batch[name][place]
                sample = data.sample(number)
                # The parts say the same: put the mask where they say, and the input comes out.
                inputs = np.concatenate([np.where(part.is_masked, mask_id, part.tokens) for part in sample.parts])
                used = min(len(inputs), seq_len)  # the last token of a row of documents is never an input
                assert batch["input_ids"][place][:used].tolist() == inputs[:used].tolist()
                scored = np.concatenate([part.is_scored for part in sample.parts])
                tokens = np.concatenate([part.tokens for part in sample.parts])
                labels = batch["labels"][place].numpy()
                np.testing.assert_array_equal(tokens[scored], labels[labels != -100])
                seen[-1][number] = inputs.tolist()
    assert seen[0].keys() == seen[1].keys()
    assert seen[0] != seen[1]


@pytest.mark.parametrize("kind", [ROWS, CONVERSATIONS])
def test_random_and_kept_tokens_are_shown_as_they_are_read(kind, rows_remote, sft_remote, open_split, capsys):
    data = open_split(
        remote_of(kind, rows_remote, sft_remote), "ratio=0.4", "replacement={mask: 0.4, random: 0.4, keep: 0.2}"
    )
    masks = open_split(remote_of(kind, rows_remote, sft_remote), "ratio=0.4")
    samples = [data.sample(number) for number in range(8)]
    for sample in samples:
        for part, plain in zip(sample.parts, masks.sample(sample.sample_id).parts, strict=True):
            np.testing.assert_array_equal(part.is_masked, plain.is_masked)
            np.testing.assert_array_equal(part.inputs[~part.is_masked], part.tokens[~part.is_masked])
    print_samples(data, samples)
    shown = capsys.readouterr().out
    assert "replacement {mask: 0.4, random: 0.4, keep: 0.2}" in shown
    marked = re.findall("⟦([^⟧]*)⟧", shown)[1:]
    with_arrow = [each.split("→") for each in marked if "→" in each]
    assert any(before == after for before, after in with_arrow)  # kept
    assert any(before != after for before, after in with_arrow)
    assert len(with_arrow) < len(marked)  # masked


def test_an_epoch_is_shown_by_the_rule_that_is_in_force(rows_remote, open_split, tmp_path):
    yaml = tmp_path / "later.yaml"
    yaml.write_text("data: {seq_len: 64}\nmasking: {ratio: 0, from_epoch: {2: {ratio: 0.25, replacement: random}}}\n")
    for epoch, expected in ((0, 0), (1, 0), (2, 16), (5, 16)):
        data = open_split(rows_remote, f"training={yaml}", f"epoch={epoch}")
        sample = data.sample(3)
        assert (sample.num_masked, data.masking.ratio) == (expected, expected / 64)
        assert (sample.parts[0].inputs != sample.parts[0].tokens).sum() == expected
    assert open_split(rows_remote, f"training={yaml}", "epoch=5", "ratio=0.5").sample(3).num_masked == 32


def test_reversed_rows_are_shown_as_they_are_read(rows_remote, open_split, capsys):
    data = open_split(rows_remote, "ratio=0.3", "reversed_ratio=0.5")
    samples = [data.sample(number) for number in range(12)]
    for sample in samples:
        stored, (part,) = data.stored_tokens(sample.sample_id), sample.parts
        as_read = [data.rule.direction_id, *stored[:0:-1]] if part.is_reversed else stored.tolist()
        assert part.tokens.tolist() == as_read
        assert part.is_maskable.sum() == 64 - part.is_reversed
        assert not part.is_masked[~part.is_maskable].any()
    backwards = sum(sample.parts[0].is_reversed for sample in samples)
    assert 0 < backwards < 12
    print_samples(data, samples)
    shown = capsys.readouterr().out
    assert "0.5 of the rows read right to left" in shown
    assert shown.count(": read right to left, ") == shown.count("⟨[REVERSED]⟩") == backwards


def test_addressing_an_epoch_leaves_the_dataset_as_it_was(rows_remote, open_split):
    dataset = open_split(rows_remote).dataset
    before = dataset[3]["input_ids"]
    assert not torch.equal(before, dataset.sample_at(3, epoch=1)["input_ids"])
    assert torch.equal(before, dataset[3]["input_ids"])


def test_originals_and_copies_are_told_apart(sft_remote, open_split):
    for layout, loss in itertools.product(("concat", "separate"), ("answer+masked", "masked")):
        data = open_split(sft_remote, f"layout={layout}", f"loss={loss}")
        for number in range(data.manifest.rows):
            sample = data.sample(number)
            copies = {part.conversation for part in sample.parts if part.is_copy}
            columns = data.dataset.stored_at(number)
            assert copies == set(np.flatnonzero(columns["copied"]).tolist())
            for part in sample.parts:
                has_masks = part.is_copy
                assert part.is_masked.any() == part.is_maskable.any() == has_masks
                assert not (part.is_masked & ~part.is_maskable).any()
                assert part.is_scored.any() == (has_masks or loss != "masked" or part.conversation not in copies)
                assert (part.first_position > 0) == (part.is_copy and layout == "concat")


def test_only_the_shards_of_the_samples_are_fetched(rows_remote, open_split, tmp_path):
    data = open_split(rows_remote)
    assert len(data.manifest.shards) > 3
    number = data.shard_starts[2]
    data.sample(number)
    data.sample(data.shard_starts[3] - 1)
    fetched = {path.name for path in (tmp_path / "cache0" / "train").iterdir()}
    assert fetched == {"index.json", data.manifest.shards[2].basename.removesuffix(".zstd")}
    assert [data.shard_of(each) for each in (0, number - 1, number, data.manifest.rows - 1)] == [
        0,
        1,
        2,
        len(data.manifest.shards) - 1,
    ]


def test_held_out_rows_are_clean_unless_a_ratio_is_given(rows_remote, open_split):
    assert open_split(rows_remote, "split=validation").sample(0).num_masked == 0
    assert open_split(rows_remote, "split=validation", "ratio=0.25").sample(0).num_masked == 16


def test_a_yaml_decides_what_the_command_line_does_not(rows_remote, open_split, tmp_path):
    yaml = tmp_path / "run.yaml"
    masking = "{ratio: 0.3, strategy: span, span_length: 4, protected: [bos, eos]}"
    yaml.write_text(f"run: {{seed: 5}}\ndata: {{seq_len: 64}}\nmasking: {masking}\n")
    from_yaml, from_options = (
        open_split(rows_remote, *options).sample(7).parts[0]
        for options in (
            [f"training={yaml}"],
            [f"training={yaml}", "seed=5", "ratio=0.3", "span_length=4"],
        )
    )
    np.testing.assert_array_equal(from_yaml.is_masked, from_options.is_masked)
    assert from_yaml.is_masked.sum() == int(from_yaml.is_maskable.sum() * 0.3)
    other = open_split(rows_remote, f"training={yaml}", "seed=6").sample(7).parts[0]
    assert (other.is_masked != from_yaml.is_masked).any()


def test_the_data_of_a_training_is_shown_where_none_is_named(rows_remote, open_split, tmp_path):
    yaml = tmp_path / "run.yaml"
    yaml.write_text(f"data: {{remote: {rows_remote}/}}\n")
    assert InspectConfig(training=str(yaml)).resolve_remote() == str(rows_remote)
    yaml.write_text("data: {streams: {web: {remote: a/b}, books: {remote: s3://c/d}}}\n")
    with pytest.raises(ConfigError, match=r"run.yaml mixes 2 data sets: choose remote=a/b or remote=s3://c/d$"):
        InspectConfig(training=str(yaml)).check()


def test_what_cannot_be_shown_is_refused(rows_remote, sft_remote, open_split, tmp_path):
    rows = open_split(rows_remote).manifest.rows
    with pytest.raises(
        ConfigError, match=rf"samples=\[{rows}\] is out of range: the train split has {rows} rows, 0 to"
    ):
        open_split(rows_remote).choose_samples(InspectConfig(samples=(rows,)))
    with pytest.raises(ConfigError, match="layout and loss: .* holds rows, not conversations .*; leave them out"):
        open_split(rows_remote, "layout=concat", "loss=masked")
    with pytest.raises(IncompleteError, match=r"remote=.* holds no finished 'validation' split"):
        open_split(sft_remote, "split=validation")
    yaml = tmp_path / "official.yaml"
    yaml.write_text("masking: {preset: official, site: algorithm}\n")
    with pytest.raises(ConfigError, match=r"masking.preset=official masks by training step, so no sample has masks"):
        open_split(rows_remote, f"training={yaml}")


def test_what_a_training_refuses_is_not_shown_as_its_samples(rows_remote, sft_remote, open_split, tmp_path):
    yaml = tmp_path / "run.yaml"
    for remote, seq_len in ((rows_remote, 64), (sft_remote, 512)):
        yaml.write_text("data: {seq_len: 4096}\n")
        message = rf"data\.seq_len=4096, but the rows of {remote}/train were packed to {seq_len} tokens: set"
        with pytest.raises(MismatchError, match=message):
            open_split(remote, f"training={yaml}")
        for split in ("train", "validation") if remote == rows_remote else ("train",):
            yaml.write_text(f"data: {{seq_len: {seq_len}}}\n")
            assert open_split(remote, f"training={yaml}", f"split={split}").sample(0).seq_len == seq_len
    yaml.write_text("recipe: meap_sft\ndata: {seq_len: 64}\n")
    with pytest.raises(MismatchError, match=r"holds rows, not conversations: recipes/meap_1b.py trains on it"):
        open_split(rows_remote, f"training={yaml}")


def test_rows_without_room_for_copies_are_not_shown_as_masked(sft_remote, open_split, tmp_path):
    shutil.copytree(sft_remote, tmp_path / "plain")
    path = tmp_path / "plain/train/manifest.json"
    manifest = Manifest.from_json(path.read_bytes(), origin="")
    path.write_text(dataclasses.replace(manifest, config=manifest.config | {"copies": False}).to_json())
    yaml = tmp_path / "run.yaml"
    yaml.write_text("data: {seq_len: 512}\n")
    with pytest.raises(ConfigError, match=r"masking\.ratio=0\.15, but .* was prepared with copies=false, so that noth"):
        open_split(tmp_path / "plain", f"training={yaml}")
    assert open_split(tmp_path / "plain", f"training={yaml}", "ratio=0").sample(0).num_masked == 0


def test_too_few_open_files_are_not_said_to_be_the_storage(rows_remote, open_split, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", "/1_barrier")

    monkeypatch.setattr(meap.inspect.samples, "build_loader", refuse)
    with pytest.raises(DataError, match="could not be opened .*: raise the number of open files with `ulimit -n 4096`"):
        open_split(rows_remote)
