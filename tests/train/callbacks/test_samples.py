"""Answers to held-out prompts: those of plain transformers, where they are looked for, and at no cost to the run."""

import json
from types import SimpleNamespace

import pytest
import torch
from composer.core import Precision
from composer.devices import DeviceCPU
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from meap.checkpoints.reading import read_checkpoint, read_record
from meap.data import Prompt, open_heldout_rows
from meap.train.attention import choose_attention
from meap.train.callbacks import Samples
from meap.train.callbacks import samples as module
from meap.train.model import NextTokenModel
from meap.train.speed import compile_model

MEASURED = ("train.max_duration=6ba", "train.eval_interval=4ba", "train.eval_batches=1")
PROMPTS = [Prompt(0, [5, 6, 7, 8, 9], [10]), Prompt(0, [11], [12, 13]), Prompt(3, [*range(20, 40)], [])]


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """A run with samples and one without, and the losses of both."""
    folder = tmp_path_factory.mktemp("samples")
    return {on: (folder / f"{on}", train(folder / f"{on}", *MEASURED, f"train.samples={on}")) for on in (3, 0)}


@pytest.mark.slow
def test_a_run_with_samples_is_the_run_without_bit_for_bit(runs):
    (sampled, losses), (plain, same) = runs[3], runs[0]
    assert losses == same
    one, other = (torch.load(folder / "checkpoints/ba6.pt", weights_only=False) for folder in (sampled, plain))
    weights, same_weights = one["state"]["model"], other["state"]["model"]
    assert all(torch.equal(weight, same_weights[name]) for name, weight in weights.items())
    for random, same_random in zip(one["rng"], other["rng"], strict=True):
        assert torch.equal(random["torch"], same_random["torch"])
        assert random["python"] == same_random["python"]
    assert not (plain / "samples.jsonl").exists()


@pytest.mark.slow
def test_the_answers_are_those_of_the_model_at_that_step(runs, remote, tokenizer):
    folder, _ = runs[3]
    found = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [(each["step"], each["row"]) for each in found] == [(step, row) for step in (4, 6) for row in (0, 1, 2)]
    log = (folder / "log.txt").read_text()
    assert log.count("  answer    ") == 6
    assert "; answers to 3 prompts" in log

    path = folder / "checkpoints/ba6.pt"
    architecture = AutoConfig.for_model(**read_record(str(path)).model.architecture)
    plain = AutoModelForCausalLM.from_config(architecture, attn_implementation="sdpa").eval()
    plain.load_state_dict(
        {name.removeprefix("model."): weight for name, weight in read_checkpoint(path).weights.items()}
    )
    with open_heldout_rows([str(remote)], fingerprint=tokenizer.fingerprint, key="remote") as rows:
        stored = [rows.read(row).tolist() for row in range(3)]
    for each in found[3:]:
        tokens = stored[each["row"]]
        assert each["prompt"] == tokenizer.decode(tokens[:8])
        assert each["expected"] == tokenizer.decode(tokens[8:16])
        assert each["answer"] == tokenizer.decode(greedy(plain, tokens[:8], tokenizer, most=8))


def greedy(model, ids, tokenizer, *, most, stop=()):
    settings = GenerationConfig(
        max_new_tokens=most,
        do_sample=False,
        eos_token_id=[tokenizer.eos_id, *stop],
        pad_token_id=0,
        suppress_tokens=[tokenizer.mask_id, *range(tokenizer.vocab_size, model.config.vocab_size)],
    )
    answer = model.generate(torch.tensor([ids]), generation_config=settings)[0, len(ids) :].tolist()
    ends = [place for place, each in enumerate(answer) if each in (tokenizer.eos_id, *stop)]
    return answer[: ends[0]] if ends else answer


@pytest.fixture(params=["llama", "qwen3"])
def models(request):
    """A model as it is trained, and the same of plain transformers."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 320, "max_position_embeddings": 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain, trained = (
            AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **sizes), attn_implementation=kind)
            for kind in ("sdpa", choose_attention("auto", on_gpu=False, bf16=False))
        )
        for weight in plain.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    trained.load_state_dict(plain.state_dict())
    trained.config.use_cache = False
    return NextTokenModel(trained), plain.eval()


@pytest.mark.parametrize("compiled", [False, True])
def test_prompts_of_different_lengths_are_answered_as_each_alone_and_the_model_stays(
    models, tokenizer, monkeypatch, compiled
):
    trained, plain = models
    if compiled:
        compile_model(trained, backend="eager")
    trained.train()
    batch = {"input_ids": torch.arange(5, 21)[None], "labels": torch.arange(6, 22)[None]}
    before = trained(batch)["loss"]
    logged = log_of(trained, tokenizer, monkeypatch)
    expected = [tokenizer.decode(greedy(plain, each.ids, tokenizer, most=16)) for each in PROMPTS]
    assert [row[2] for row in logged] == expected
    assert [row[3] for row in logged] == [tokenizer.decode(each.expected) for each in PROMPTS]
    assert all(each.training for each in trained.modules())
    assert torch.equal(trained(batch)["loss"], before)


def test_an_answer_ends_before_a_stop_id(models, tokenizer, monkeypatch):
    trained, plain = models
    whole = greedy(plain, PROMPTS[0].ids, tokenizer, most=16)
    stop = whole[4]
    logged = log_of(trained, tokenizer, monkeypatch, stop_ids=[stop])
    assert logged[0][2] == tokenizer.decode(whole[: whole.index(stop)])


def log_of(model, tokenizer, monkeypatch, *, stop_ids=()):
    monkeypatch.setattr(module, "read_prompts", lambda *_, **__: PROMPTS)
    callback = Samples(model, tokenizer, heldout=object(), count=3, num_tokens=16, stop_ids=stop_ids)
    rows = []
    logger = SimpleNamespace(log_table=lambda columns, table, name: rows.extend(table))
    callback.eval_end(SimpleNamespace(device=DeviceCPU(), precision=Precision.FP32, precision_config=None), logger)
    return rows
