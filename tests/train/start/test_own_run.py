"""Starting from a run of ours: its weights, its architecture, and nothing else of it."""

import shutil

import pytest
import torch

from meap.checkpoints.trust import load_checkpoint
from meap.config import ModelConfig
from meap.errors import CheckpointError, MismatchError
from meap.manifest import ROWS
from meap.train.attention import choose_attention
from meap.train.start import initial_model
from meap.usage import Usage


def start(base, tokenizer, *, weights="start", context=16, theta=None):
    config = ModelConfig(base=str(base), base_rope_theta=theta)
    attention = choose_attention("sdpa", on_gpu=False, bf16=False)
    return initial_model(config, tokenizer, attention=attention, context=context, seed=0, weights=weights)


@pytest.fixture(scope="module")
def run(train, tmp_path_factory):
    """A run of eight steps, saved after four and eight."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    train(folder, "train.max_duration=8ba", "train.eval_batches=0")
    return folder


def stored(run, name: str) -> dict[str, torch.Tensor]:
    return load_checkpoint(str(run / "checkpoints" / name))["state"]["model"]


def test_a_run_its_checkpoints_and_one_of_them_can_be_the_base(run, tokenizer):
    newest = stored(run, "ba8.pt")
    for base in (run, run / "checkpoints", f"file://{run}/checkpoints", f"file://{run}/checkpoints/ba8.pt"):
        weights = start(base, tokenizer).state_dict()
        assert all(torch.equal(weights[name], newest[name]) for name in newest)
    earlier = start(run / "checkpoints/ba4.pt", tokenizer).state_dict()
    assert all(torch.equal(earlier[name], weight) for name, weight in stored(run, "ba4.pt").items())


def test_what_the_run_says_of_prompts_is_taken_over(run, tokenizer):
    assert start(run, tokenizer).base_usage == Usage(ROWS, begins_with_bos=True)


def test_a_run_says_which_checkpoint_it_started_from(run, tokenizer, capsys):
    start(run, tokenizer)
    assert f"base       {run}/checkpoints/ba8.pt\n" in capsys.readouterr().out


def test_the_logits_are_those_of_the_run(run, tokenizer, small_config, tmp_path):
    from meap.train.model import build_model, decoder_config

    architecture = decoder_config(small_config(tmp_path / "x").model, vocab_size=tokenizer.vocab_size, seq_len=16)
    trained = build_model(architecture, attention=choose_attention("sdpa", on_gpu=False, bf16=False), seed=5)
    trained.load_state_dict(stored(run, "ba8.pt"))
    model = start(run, tokenizer)
    ids = torch.randint(tokenizer.vocab_size, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model.model(ids).logits, trained.model(ids).logits)
    assert model.config.max_position_embeddings == 16


def test_a_longer_context_changes_theta_and_positions_alone(run, tokenizer):
    plain, extended = start(run, tokenizer), start(run, tokenizer, context=64, theta=640_000.0)
    assert (extended.config.rope_parameters["rope_theta"], extended.config.max_position_embeddings) == (640_000.0, 64)
    assert all(torch.equal(one, two) for one, two in zip(plain.parameters(), extended.parameters(), strict=True))
    head_size = plain.config.head_dim
    expected = 640_000.0 ** -(torch.arange(0, head_size, 2).float() / head_size)
    torch.testing.assert_close(extended.model.model.rotary_emb.inv_freq, expected)
    assert not torch.equal(plain.model.model.rotary_emb.inv_freq, expected)


def test_the_mask_token_can_still_be_left_out_of_an_export(run, tokenizer):
    from meap.train.model import padded_vocab_size

    assert start(run, tokenizer).rows_without_mask == padded_vocab_size(tokenizer.plain_vocab_size, 64)


@pytest.mark.fault(9)
def test_what_does_not_belong_together_is_refused(run, tokenizer, tmp_path):
    from meap.config import TokenizerConfig
    from meap.tokenizer import load_tokenizer

    tokenizer.save(tmp_path / "tokenizer", with_mask=False)
    other = load_tokenizer(TokenizerConfig(name=str(tmp_path / "tokenizer"), mask_token="<other>"))
    with pytest.raises(MismatchError, match=r"is not the one model.base=.*first was made with"):
        start(run, other)
    empty = tmp_path / "empty"
    (empty / "checkpoints").mkdir(parents=True)
    shutil.copy(run / "config.yaml", empty)
    with pytest.raises(CheckpointError, match="holds no checkpoint with a record"):
        start(empty / "checkpoints", tokenizer)
    shutil.copy(run / "checkpoints/ba4.pt", tmp_path / "ba4.pt")
    with pytest.raises(
        CheckpointError, match=r"the architecture of model.base=.*ba4.pt is not known \(ba4.json is missing\): give one"
    ):
        start(tmp_path / "ba4.pt", tokenizer)


@pytest.mark.parametrize("left", ["run", "checkpoints", "checkpoint"])
def test_a_run_that_was_moved_is_a_base_as_it_was_without_its_data(run, tokenizer, tmp_path, left):
    moved, newest = tmp_path / "elsewhere/second", stored(run, "ba8.pt")
    shutil.copytree(run, moved)
    config = moved / "config.yaml"
    config.write_text(config.read_text().replace(str(run), "/gone").replace("remote: /", "remote: /gone/"))
    if left != "run":
        moved = (moved / "checkpoints").rename(tmp_path / "saved")
        shutil.rmtree(tmp_path / "elsewhere")
    model = start(moved / "ba8.pt" if left == "checkpoint" else moved, tokenizer)
    assert all(torch.equal(weight, newest[name]) for name, weight in model.state_dict().items())
