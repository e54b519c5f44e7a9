"""`model.config`: any decoder of transformers with fresh weights, or a refusal by name before data are read."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from meap.config import ModelConfig
from meap.errors import ConfigError, DataError
from meap.export.hf import ExportSource, export_model
from meap.train.attention import choose_attention
from meap.train.checkpoints.model_record import record_model
from meap.train.start import initial_model, recorded_model
from meap.train.start.exactness import TOLERANCE, measured_difference, require_exact
from meap.usage import Usage
from tests.train.architectures import NAMES, PARTICULAR, config_alone, tiny

ROOT = Path(__file__).resolve().parents[3]
ATTENTION = choose_attention("auto", on_gpu=False, bf16=False)
SOURCE = ExportSource(run="fresh", checkpoint="ba4.pt", step=4, tokens=400, masking_ratio=0.0)


@pytest.fixture
def write(tmp_path):
    """A folder that holds a config.json and nothing else."""

    def make(name: str, **more) -> Path:
        config = tiny(name, **more) if name in PARTICULAR else AutoConfig.for_model(name, **more)
        config.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


def begin(config, tokenizer, *, seed=0, context=16, weights="start"):
    section = ModelConfig(config=str(config))
    return initial_model(section, tokenizer, attention=ATTENTION, context=context, seed=seed, weights=weights)


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_is_packed_exactly_recorded_and_exported(write, tokenizer, tmp_path, name):
    """From its config.json to a folder that plain transformers reads, by way of what a checkpoint records."""
    folder = write(name)
    require_exact(f"model.config={folder}", AutoConfig.from_pretrained(folder), context=16)
    model = begin(folder, tokenizer)
    record, _ = record_model(model, tokenizer, Usage(), before=None)
    again = recorded_model(record, attention=ATTENTION)
    assert again.config.to_dict() == model.config.to_dict() | {"_name_or_path": ""}
    again.load_state_dict(model.state_dict())
    ids = torch.randint(tokenizer.vocab_size, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model.model(ids).logits
        assert torch.equal(again.model(ids).logits, expected)
        export_model(again.model, tokenizer, tmp_path / "hf", SOURCE, usage=Usage(begins_with_bos=True))
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", attn_implementation="eager")
        torch.testing.assert_close(exported(ids).logits, expected, rtol=0, atol=1e-5)
    assert type(exported) is type(model.model)
    stated, written = tiny(name).to_dict(), exported.config.to_dict()
    own = {"vocab_size": 320, "max_position_embeddings": 16, "pad_token_id": None}
    own |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    theirs = {"use_cache", "dtype", "architectures", "_name_or_path"}
    changed = {key for key in stated if stated[key] != written[key]} - theirs
    assert changed <= set(own)
    assert {key: written[key] for key in own} == own


@pytest.mark.parametrize("name", ["gemma3_text", "qwen3"])
def test_ranks_without_weights_have_the_same_shapes_and_the_seed_decides_the_weights(write, tokenizer, name):
    folder = write(name)
    one, same, other = (begin(folder, tokenizer, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)
    empty = begin(folder, tokenizer, weights="none")
    assert {key: each.shape for key, each in empty.state_dict().items()} == {
        key: each.shape for key, each in one.items()
    }
    assert {each.device.type for each in empty.parameters()} == {"meta"}


def test_the_file_itself_is_as_good_as_its_folder_and_weights_beside_it_are_not_read(write, tokenizer):
    folder = write("qwen3")
    (folder / "model.safetensors").write_text("no weights")
    both = [begin(each, tokenizer).state_dict() for each in (folder, folder / "config.json")]
    assert all(torch.equal(weight, both[1][key]) for key, weight in both[0].items())


def test_mask_and_vocabulary_are_the_tokenizer_s(write, tokenizer):
    model = begin(write("llama", vocab_size=128_256), tokenizer)
    assert model.config.vocab_size == 320 == len(model.model.get_input_embeddings().weight)
    assert model.rows_without_mask == 320


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
REFUSED = {
    "gemma2": ({"head_dim": 16}, r"scores capped by a tanh \(attn_logit_softcapping\)"),
    "granite_swa": (SMALL | {"num_key_value_heads": 2}, r"its attention has sinks"),
    "gpt_oss": (SMALL, r"its layers choose among experts"),
    "mamba": ({"hidden_size": 32, "num_hidden_layers": 2}, r"differ from those of the segments alone by \d.* nats"),
    "qwen3_5_text": (
        SMALL | LINEAR | {"num_key_value_heads": 2, "head_dim": 16},
        r"nats.*; it has linear_attention",
    ),
    "lfm2": (SMALL | {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}, r"it has conv layers"),
    "bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 2}, r"biased by position \(ALiBi\)"),
    "phi": (SMALL | {"intermediate_size": 64}, r"its head adds a bias"),
    "bert": (SMALL, r"its attention is not causal"),
    "t5": ({}, r"an encoder and a decoder"),
    "gemma3": ({}, r"more than text. Train its text model \('gemma3_text'\) alone: .* text_config"),
    "vit": ({}, r"no causal language model"),
    "gptj": ({"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8}, r"differ .*|adds a bias"),
}


@pytest.mark.fault(9)
@pytest.mark.parametrize("name", REFUSED)
def test_what_packed_rows_are_not_exact_for_is_refused_by_name_with_the_reason(name):
    more, reason = REFUSED[name]
    with pytest.raises(ConfigError, match=rf"(?s)^model\.config=x is a '{name}' model: .*{reason}.*Choose a decoder"):
        require_exact("model.config=x", AutoConfig.for_model(name, **more), context=64)


@pytest.mark.parametrize(("context", "is_exact"), [(16, True), (64, False)])
def test_frequencies_that_follow_the_longest_segment_are_refused_where_a_row_can_reach_them(context, is_exact):
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 32, **factors}
    phi = tiny("phi3", rope_parameters=rope, original_max_position_embeddings=32)
    assert (measured_difference(phi, context=context) <= TOLERANCE) == is_exact


class OddConfig(LlamaConfig):
    model_type = "odd_llama"


class OddForCausalLM(LlamaForCausalLM):
    """An architecture that nobody has seen: each state is mixed with the one before, whichever segment that is in."""

    config_class = OddConfig

    def __init__(self, config):
        super().__init__(config)
        self.model.embed_tokens.register_forward_hook(lambda *each: each[-1] + each[-1].roll(1, dims=1))


def test_an_unknown_architecture_is_judged_by_what_it_computes():
    AutoConfig.register("odd_llama", OddConfig)
    AutoModelForCausalLM.register(OddConfig, OddForCausalLM)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    with pytest.raises(ConfigError, match=r"'odd_llama' model: losses of segments .* by \d\S* nats, 0.001 is allowed"):
        require_exact("model.config=x", OddConfig(**sizes), context=64)


def test_the_trial_changes_no_random_state_and_not_the_configuration():
    architecture = tiny("gemma3_text")
    before, described = torch.get_rng_state(), architecture.to_dict()
    require_exact("model.config=x", architecture, context=64)
    assert torch.equal(torch.get_rng_state(), before)
    assert architecture.to_dict() == described


@pytest.fixture(scope="module")
def recipes():
    return {name: runpy.run_path(str(ROOT / f"recipes/{name}.py"))["main"] for name in ("meap_1b", "meap_sft")}


@pytest.mark.fault(9)
@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(("recipe", "key"), [("meap_1b", "config"), ("meap_1b", "base"), ("meap_sft", "base")])
def test_a_run_is_refused_before_data_are_read(recipes, small_config, write, tmp_path, recipe, key, dry_run):
    given = (*config_alone(write("gemma2", attn_logit_softcapping=50.0), key=key), "data.remote=/nowhere")
    with pytest.raises(ConfigError, match=rf"model\.{key}=.* is a 'gemma2' model: .*softcapping"):
        recipes[recipe](small_config(tmp_path / "run", *given), dry_run=dry_run)


@pytest.mark.fault(9)
def test_what_contradicts_a_configuration_is_refused_with_it():
    changed = {"architecture": "qwen3", "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 16}
    changed |= {"num_key_value_heads": 4, "num_hidden_layers": 2, "head_dim": 32, "tie_word_embeddings": True}
    changed |= {"rope_theta": 1e6, "rms_norm_eps": 1e-6}
    for name, value in changed.items():
        with pytest.raises(ConfigError, match=rf"model\.{name}={value} and model\.config=x .* change it in a copy"):
            ModelConfig(config="x", **{name: value})
    with pytest.raises(ConfigError, match=r"model\.base=y and model\.config=x exclude each other.*leave one of"):
        ModelConfig(config="x", base="y")


@pytest.mark.fault(9)
def test_what_cannot_be_read_or_brings_code_is_refused(write, tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"model\.config=.*nowhere is not there: give a folder with config\.json, the "):
        begin(tmp_path / "nowhere", tokenizer)
    folder = write("llama")
    stored = json.loads((folder / "config.json").read_text())
    (folder / "code.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')\nConfig = None\n")
    code = {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(stored | code))
    with pytest.raises(ConfigError, match=r"needs code that comes with the model, which is never run"):
        begin(folder, tokenizer)
    assert not (tmp_path / "touched").exists()
    scaled = write("qwen2", max_position_embeddings=32, rope_parameters=DYNAMIC)
    with pytest.raises(ConfigError, match=r"max_position_embeddings=32 with scaled RoPE \(dynamic\), but rows have 64"):
        begin(scaled, tokenizer, context=64)
