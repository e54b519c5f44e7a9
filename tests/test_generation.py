"""`meap generate`: the continuation of transformers itself, by the chat template, ending where the model ends."""

import json
import re
import shutil

import pytest
import torch

from meap.cli import main
from meap.config.commands import GenerateConfig
from meap.errors import ConfigError
from meap.export.prompting import Prompting
from meap.generation import encode_prompt, stop_ids
from meap.run_files import find_model
from meap.usage import Usage

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """A run's folder with an untrained model in it, whose weights are far enough apart to prefer some tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    # More rows than the tokenizer has ids, as an embedding that is padded.
    config = LlamaConfig(
        **sizes, vocab_size=tokenizer.vocab_size + 7, max_position_embeddings=64, initializer_range=0.5,
        bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id,
    )  # fmt: skip
    run = tmp_path_factory.mktemp("run")
    LlamaForCausalLM(config).save_pretrained(run / "hf")
    Prompting(tokenizer, Usage(begins_with_bos=True), with_mask=True, context=64).write(run / "hf")
    return run / "hf"


@pytest.fixture(scope="module")
def read(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def chatty(folder, tmp_path_factory):
    """The same with a chat template and tokens of its own."""
    from transformers import AutoTokenizer

    copy = shutil.copytree(folder, tmp_path_factory.mktemp("chat") / "hf")
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(copy)
    return copy


def generated(capsys, *arguments: str) -> str:
    assert main(["generate", *arguments]) == 0
    return capsys.readouterr().out.removesuffix("\n")


def test_greedy_text_is_that_of_transformers_and_its_padding_is_never_text(folder, read, capsys):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = torch.tensor([[read.bos_token_id, *read.encode("The boats", add_special_tokens=False)]])
    expected = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False,
        pad_token_id=0, suppress_tokens=[*range(len(read), model.config.vocab_size)],
    )  # fmt: skip
    text = read.decode(expected[0, prompt.shape[1] :], skip_special_tokens=True)
    assert text
    told = generated(capsys, f"model={folder}", "prompt=The boats", "max_new_tokens=12")
    assert told.strip() == text.strip()
    assert told == generated(capsys, f"model={folder.parent}", "prompt=The boats", "max_new_tokens=12"), "by its run"


def test_samples_differ_by_seed_and_are_drawn_again(folder, capsys):
    def sample(seed: int) -> str:
        options = ("temperature=2", "max_new_tokens=20", f"seed={seed}")
        return generated(capsys, f"model={folder}", "prompt=The boats", *options)

    assert sample(1) == sample(1) != sample(2)


def test_a_turn_of_a_chat_is_rendered_and_ends_with_the_template(chatty):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chatty)
    ids = encode_prompt(tokenizer, GenerateConfig(model="m", prompt="Hi", system="Be kind"))
    assert tokenizer.decode(ids) == "<s><|system|>Be kind<|end|><|user|>Hi<|end|><|assistant|>"
    assert ids.count(tokenizer.bos_token_id) == 1
    plain = encode_prompt(tokenizer, GenerateConfig(prompt="Hi", chat="false"))
    assert tokenizer.decode(plain) == "<s>Hi"
    export = {"source": {"run": "small"}, "kind": "rows"}  # trained on text, by a tokenizer that came with a template
    (chatty / "meap_export.json").write_text(json.dumps(export))
    assert encode_prompt(tokenizer, GenerateConfig(prompt="Hi")) == plain
    assert encode_prompt(tokenizer, GenerateConfig(prompt="Hi", system="Be kind", chat="true")) == ids
    (chatty / "meap_export.json").unlink()
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert stop_ids(tokenizer, [5, tokenizer.eos_token_id], in_chat=True) == [5, tokenizer.eos_token_id, end]
    assert stop_ids(tokenizer, None, in_chat=False) == [tokenizer.eos_token_id]


def test_text_begins_as_the_tokenizer_begins_it(read):
    ids = encode_prompt(read, GenerateConfig(prompt="Hi"))
    assert ids[0] == read.bos_token_id
    assert encode_prompt(read, GenerateConfig(prompt="Hi", add_bos=False)) == ids[1:]
    assert encode_prompt(read, GenerateConfig(prompt="")) == [read.bos_token_id]
    with pytest.raises(ConfigError, match="prompt is empty"):
        encode_prompt(read, GenerateConfig(prompt="", add_bos=False))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["model={folder}/none"], 1, "model={folder}/none is not there: give the folder of a run"),
        (["model={folder}", "chat=true"], 2, "chat=true needs a chat template, and model={folder} has none: leave it"),
        (["model={folder}", "system=x"], 2, "system needs a chat template, and model={folder} has none: leave it out"),
    ],
)
def test_what_the_model_contradicts_is_one_line(arguments, status, message, folder, capsys):
    assert main(["generate", "prompt=x", *(each.format(folder=folder) for each in arguments)]) == status
    *_, error = capsys.readouterr().err.splitlines()
    assert message.format(folder=folder) in error


def test_a_prompt_that_fills_the_context_is_refused(folder, capsys):
    assert main(["generate", f"model={folder}", f"prompt={'boats ' * 99}"]) == 2
    assert " tokens, but model=" in (error := capsys.readouterr().err)
    assert "reads 64 and needs room to answer: shorten it" in error


@pytest.mark.parametrize("left", ["config.yaml", "metrics.jsonl", "starts.jsonl", "checkpoints/ba20.json"])
def test_a_run_that_is_not_exported_is_told_how(tmp_path, left):
    (tmp_path / "a run" / left).parent.mkdir(parents=True)
    (tmp_path / "a run" / left).write_text("{}")
    command = re.escape(f"run `python recipes/export_hf.py run.dir='{tmp_path}/a run'`")
    for model in ("a run", "a run/hf"):
        with pytest.raises(ConfigError, match=f"a run is a run that has not been exported: {command}"):
            find_model(str(tmp_path / model))
    assert find_model("owner/name") == "owner/name"
