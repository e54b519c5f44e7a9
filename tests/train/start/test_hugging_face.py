"""Starting from a finished model: its vocabulary grows by the mask token, and nothing else changes."""

import dataclasses
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from meap.config import ModelConfig, TokenizerConfig
from meap.errors import ConfigError, DataError, MismatchError
from meap.tokenizer import load_tokenizer
from meap.train.attention import choose_attention
from meap.train.checkpoints.model_record import record_model
from meap.train.start import initial_model, recorded_model
from meap.usage import Usage

ATTENTION = choose_attention("auto", on_gpu=False, bf16=False)


def begin(base, tokenizer, *, weights="start", context=64, multiple=64, theta=None):
    config = ModelConfig(base=str(base), vocab_multiple=multiple, base_rope_theta=theta)
    return initial_model(config, tokenizer, attention=ATTENTION, context=context, seed=0, weights=weights)


def start(base, tokenizer, **choices):
    return begin(base, tokenizer, **choices).model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2"])
def test_known_ids_keep_their_logits_and_the_mask_token_starts_as_the_mean(make_base, tokenizer, model_type, tied):
    plain = tokenizer.plain_vocab_size
    base = make_base(model_type, vocab_rows=plain, tied=tied)
    before, after = AutoModelForCausalLM.from_pretrained(base), start(base, tokenizer)
    assert after.config.vocab_size == 320 == after.get_input_embeddings().weight.shape[0]
    assert (after.get_input_embeddings().weight is after.get_output_embeddings().weight) == tied
    ids = torch.randint(plain, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(after(ids).logits[..., :plain], before(ids).logits, rtol=0, atol=1e-5)
    for old, new in (
        (before.get_input_embeddings(), after.get_input_embeddings()),
        (before.get_output_embeddings(), after.get_output_embeddings()),
    ):
        torch.testing.assert_close(new.weight[tokenizer.mask_id], old.weight.mean(0))
        assert torch.equal(new.weight[:plain], old.weight)


@pytest.mark.parametrize("stored", [None, {"temperature": 0.6, "eos_token_id": [1, 7], "own_setting": [1]}])
@pytest.mark.parametrize("template", [None, "{{ bos_token }}", [{"name": "default", "template": "x"}]])
@pytest.mark.parametrize("exported", [None, "rows", "conversations"])
def test_what_the_base_says_of_prompts_is_taken_over(make_base, tokenizer, stored, template, exported):
    base = make_base("llama", vocab_rows=320, with_mask=True, eos_token_id=[1, 5])
    (base / "generation_config.json").unlink()
    if stored is not None:
        (base / "generation_config.json").write_text(json.dumps(stored))
    if template is not None:
        config = json.loads((base / "tokenizer_config.json").read_text())
        (base / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    if exported is not None:
        (base / "meap_export.json").write_text(json.dumps({"source": {"run": "small"}, "kind": exported}))
    usage = begin(base, tokenizer, weights="none").base_usage
    assert usage.kind == (exported or ("conversations" if template else "rows"))
    assert usage.chat_template == template
    if stored is not None:
        assert usage.generation == stored
    assert usage.ends(tokenizer.eos_id) == ([1, 5] if stored is None else [1, 7])


@pytest.mark.fault(9)
@pytest.mark.parametrize("content", ["{", "[1]", "1"])
def test_a_base_whose_generation_settings_are_damaged_is_refused(make_base, tokenizer, content):
    base = make_base("llama", vocab_rows=320, with_mask=True)
    (base / "generation_config.json").write_text(content)
    with pytest.raises(DataError, match=r"model.base=.* cannot be read"):
        begin(base, tokenizer, weights="none")


def test_spare_rows_are_used_before_any_are_added(make_base, tokenizer):
    base = make_base("qwen2", vocab_rows=384)
    before, after = AutoModelForCausalLM.from_pretrained(base), start(base, tokenizer)
    assert after.config.vocab_size == 384
    weight, old = after.get_input_embeddings().weight, before.get_input_embeddings().weight
    torch.testing.assert_close(weight[tokenizer.mask_id], old.mean(0))
    kept = [number for number in range(384) if number != tokenizer.mask_id]
    assert torch.equal(weight[kept], old[kept])


def test_a_mask_token_that_was_trained_keeps_its_embedding(make_base, tokenizer):
    base = make_base("llama", vocab_rows=320, with_mask=True)
    before, after = AutoModelForCausalLM.from_pretrained(base), start(base, tokenizer)
    assert torch.equal(after.get_input_embeddings().weight, before.get_input_embeddings().weight)
    assert begin(base, tokenizer).rows_without_mask is None


def test_without_weights_the_shapes_are_the_same(make_base, tokenizer):
    base = make_base("llama", vocab_rows=tokenizer.plain_vocab_size)
    shapes = {name: each.shape for name, each in start(base, tokenizer).state_dict().items()}
    empty = start(base, tokenizer, weights="none")
    assert {name: each.shape for name, each in empty.state_dict().items()} == shapes
    assert {each.device.type for each in empty.parameters()} == {"meta"}


@pytest.mark.parametrize("is_recorded", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_longer_context_changes_theta_and_positions_alone(make_base, tokenizer, model_type, is_recorded):
    """Also where the base is gone, and all there is of it are weights and what a run has recorded."""
    base = make_base(model_type, vocab_rows=320, with_mask=True)
    before = AutoModelForCausalLM.from_pretrained(base)
    extended = start(base, tokenizer, context=256, theta=640_000.0)
    if is_recorded:
        begun = begin(base, tokenizer, context=256, theta=640_000.0)
        record, _ = record_model(begun, tokenizer, Usage(), before=None)
        shutil.rmtree(base)
        extended = recorded_model(record, attention=ATTENTION).model
        extended.load_state_dict(begun.model.state_dict())
        assert extended.config.to_dict() == begun.model.config.to_dict() | {"_name_or_path": ""}
    assert (extended.config.rope_parameters["rope_theta"], extended.config.max_position_embeddings) == (640_000.0, 256)
    head_size = before.model.layers[0].self_attn.head_dim
    expected = 640_000.0 ** -(torch.arange(0, head_size, 2).float() / head_size)
    torch.testing.assert_close(extended.model.rotary_emb.inv_freq, expected)
    assert all(torch.equal(one, two) for one, two in zip(before.parameters(), extended.parameters(), strict=True))


@pytest.mark.fault(9)
def test_what_cannot_be_tuned_is_refused(make_base, tokenizer, tokenizer_dir, tmp_path):
    with pytest.raises(DataError, match=r"model.base=.*nowhere is not there: give a folder"):
        start(tmp_path / "nowhere", tokenizer)
    base = make_base("llama", vocab_rows=320)
    with pytest.raises(ConfigError, match=r"has max_position_embeddings=128, but segments .* can take 256 positions"):
        start(base, tokenizer, context=256)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(DataError, match=r"28 weights of a 'gpt2' model are not in its files, .* as transformer\."):
        start(base, tokenizer)


@pytest.mark.fault(9)
def test_the_base_must_have_the_tokenizer_of_the_data(make_base, tokenizer_dir, tokenizer):
    base = make_base("llama", vocab_rows=320)
    other = load_tokenizer(TokenizerConfig(name=str(tokenizer_dir), mask_token="<other>"))
    definition = json.loads((base / "tokenizer.json").read_text())
    definition["model"]["merges"] = definition["model"]["merges"][:-1]
    (base / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(MismatchError, match="is not the one the data was made with"):
        start(base, tokenizer)
    assert other.mask_id == tokenizer.mask_id


def test_a_base_without_the_data_s_special_tokens_is_told_as_one_with_another_tokenizer(make_base, tokenizer):
    base = make_base("llama", vocab_rows=tokenizer.plain_vocab_size)
    other = dataclasses.replace(tokenizer, bos_token="<|begin_of_text|>")
    with pytest.raises(
        MismatchError, match=r"model\.base=.* has another tokenizer than the data, .*: prepare the data"
    ):
        begin(base, other, weights="none")
