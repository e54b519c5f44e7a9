"""The protocol on a real model: batching, padding and positions change nothing."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from meap.config import EvaluationConfig, TokenizerConfig
from meap.errors import CheckpointError, ConfigError
from meap.evals import hugging_face
from meap.evals.hugging_face import HuggingFaceLM, load_model, weights_hash
from meap.evals.task import TaskInputs

LENGTHS = (30, 5, 17, 2, 64, 30, 9)


def rows(tokenizer, lengths=LENGTHS):
    rng = np.random.default_rng(0)
    return [rng.integers(2, tokenizer.vocab_size - 1, length) for length in lengths]


def test_loglikelihoods_are_those_of_each_row_alone(lm, llama, tokenizer):
    found = lm.loglikelihoods(rows(tokenizer))
    for row, loglikelihoods in zip(rows(tokenizer), found, strict=True):
        with torch.inference_mode():
            logits = llama(torch.from_numpy(row)[None]).logits[0]
        expected = logits.log_softmax(-1)[torch.arange(len(row) - 1), torch.from_numpy(row[1:])]
        assert loglikelihoods == pytest.approx(expected.numpy(), abs=1e-4)


def test_candidates_of_one_token_are_read_with_their_prompt_once(llama, tokenizer):
    lm = HuggingFaceLM(llama, tokenizer, name="small", batch_size=3)
    prompts = rows(tokenizer)
    many = [np.append(prompts[0], last) for last in range(100)]
    for row, loglikelihoods in zip(many[::9], lm.loglikelihoods(many)[::9], strict=True):
        assert loglikelihoods == pytest.approx(lm.loglikelihoods([row])[0], abs=1e-4)
    asked = [np.append(prompt, last) for prompt in prompts for last in range(5, 5 + len(prompt) % 4 + 1)]
    sizes = []
    handle = llama.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    found = lm.loglikelihoods([*asked[::2], *asked[1::2]])
    handle.remove()
    assert sum(sizes) == len(prompts) < len(asked)
    for row, loglikelihoods in zip([*asked[::2], *asked[1::2]], found, strict=True):
        (alone,) = lm.loglikelihoods([row])
        assert loglikelihoods == pytest.approx(alone, abs=1e-4)


def test_a_small_memory_changes_batches_only(lm, tokenizer, monkeypatch):
    whole = lm.loglikelihoods(rows(tokenizer))
    monkeypatch.setattr(hugging_face, "_NUM_LOGITS", 1)
    for before, after in zip(whole, lm.loglikelihoods(rows(tokenizer)), strict=True):
        assert after == pytest.approx(before, abs=1e-4)


def greedy(llama, prompt, banned, eos_id, max_new_tokens):
    """Without batches, cache and padding."""
    ids = list(prompt)
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            logits = llama(torch.tensor([ids])).logits[0, -1].clone()
            logits[banned] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] == eos_id:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


def test_generation_is_greedy_for_each_prompt_alone(lm, llama, tokenizer):
    prompts = rows(tokenizer)
    banned = [tokenizer.mask_id, tokenizer.bos_id, *range(tokenizer.vocab_size, 320)]
    expected = [greedy(llama, prompt, banned, tokenizer.eos_id, 12) for prompt in prompts]
    assert lm.generate(prompts, max_new_tokens=12) == expected
    assert len({tuple(ids) for ids in expected}) > 3


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 7, 30])
def test_long_prompts_are_read_in_pieces(llama, tokenizer, lm, chunk):
    pieces = HuggingFaceLM(llama, tokenizer, name="small", batch_size=3, prefill_chunk=chunk)
    for some in (rows(tokenizer), rows(tokenizer, (40, 40, 40))):
        assert pieces.generate(some, max_new_tokens=8) == lm.generate(some, max_new_tokens=8)
        for one, other in zip(pieces.loglikelihoods(some), lm.loglikelihoods(some), strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_batches_of_one_are_as_batches_of_many(llama, tokenizer, lm):
    one_by_one = HuggingFaceLM(llama, tokenizer, name="small", batch_size=3, batch_tokens=1)
    prompts = rows(tokenizer)
    assert one_by_one.generate(prompts, max_new_tokens=12) == lm.generate(prompts, max_new_tokens=12)


def test_a_continuation_ends_with_its_stop(lm, tokenizer):
    prompts = rows(tokenizer)
    whole = lm.generate(prompts, max_new_tokens=20)
    stop = tokenizer.decode(whole[0][3:5])
    for ids, stopped in zip(whole, lm.generate(prompts, max_new_tokens=20, stop=stop), strict=True):
        assert stopped == ids[: len(stopped)]
        assert (stop in tokenizer.decode(stopped)) == (stop in tokenizer.decode(ids))
        assert stop not in tokenizer.decode(stopped[:-1])


def test_banned_ids_are_never_generated(llama, tokenizer):
    bias = torch.zeros(320)
    bias[[tokenizer.mask_id, tokenizer.bos_id, 319]] = 1e6
    hook = llama.lm_head.register_forward_hook(lambda module, arguments, logits: logits + bias)
    try:
        lm = HuggingFaceLM(llama, tokenizer, name="small", batch_size=3)
        (ids,) = lm.generate([np.array([5, 6])], max_new_tokens=8)
    finally:
        hook.remove()
    assert len(ids) == 8
    assert not {tokenizer.mask_id, tokenizer.bos_id, 319} & set(ids)


@pytest.mark.parametrize("end", ["eos", "turn"])
def test_generation_ends_before_what_ends_an_answer(llama, tokenizer, end, monkeypatch):
    ends = {"eos": tokenizer.eos_id, "turn": 42}
    monkeypatch.setattr(llama.generation_config, "eos_token_id", [*ends.values()])
    bias = torch.zeros(320)
    bias[ends[end]] = 1e6
    hook = llama.lm_head.register_forward_hook(lambda module, arguments, logits: logits + bias)
    try:
        lm = HuggingFaceLM(llama, tokenizer, name="small", batch_size=3)
        assert lm.generate([np.array([5, 6]), np.array([7])], max_new_tokens=8) == [[], []]
    finally:
        hook.remove()


def test_one_token_for_both_ends_may_be_generated(llama, tokenizer):
    both = dataclasses.replace(tokenizer, bos_token="</s>")
    assert tokenizer.eos_id not in HuggingFaceLM(llama, both, name="small", batch_size=1)._banned_ids


def test_too_long_is_refused(lm, tokenizer):
    with pytest.raises(ConfigError, match="a row to score takes 129 tokens, but the context of model small is 128"):
        lm.loglikelihoods(rows(tokenizer, (130,)))
    with pytest.raises(ConfigError, match="a prompt and its continuation takes 130 tokens"):
        lm.generate([np.full(120, 3)], max_new_tokens=10)
    assert len(lm.loglikelihoods(rows(tokenizer, (129,)))[0]) == 128


def test_a_model_that_diverged_is_reported(llama, tokenizer, lm):
    hook = llama.lm_head.register_forward_hook(lambda module, arguments, logits: logits * float("nan"))
    try:
        with pytest.raises(CheckpointError, match="model small computes log-likelihoods that are not finite"):
            lm.loglikelihoods(rows(tokenizer))
    finally:
        hook.remove()


# --- loading ---


@pytest.fixture(scope="module")
def folder(llama, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "hf"
    llama.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def test_a_folder_is_loaded_with_its_tokenizer(folder, lm, tokenizer):
    loaded = load_model(EvaluationConfig(model=str(folder)))
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    assert loaded.max_positions == 128
    assert loaded.describe()["name"] == str(folder)
    if loaded.describe()["device"] == "cpu":
        assert loaded.describe()["dtype"] == "float32"
        for ours, theirs in zip(
            loaded.loglikelihoods(rows(tokenizer)), lm.loglikelihoods(rows(tokenizer)), strict=True
        ):
            assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_missing_model_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no demo has left a model
    with pytest.raises(CheckpointError, match=r"holds no exported model \(no config.json\): give the folder of a run"):
        load_model(EvaluationConfig(model=str(tmp_path)))
    for name in (str(tmp_path / "none"), "runs/tiny/hf", "./hf"):
        with pytest.raises(CheckpointError, match=f"model={name} is not there: give the folder of a run that recipes/"):
            load_model(EvaluationConfig(model=name))
    (tmp_path / "runs/long").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"model=runs/lng is not there: did you mean runs/long\?"):
        load_model(EvaluationConfig(model="runs/lng"))
    with pytest.raises(CheckpointError, match=r"there is no such folder, and a hub name begins with an account, as in"):
        load_model(EvaluationConfig(model="gpt2"))


def test_a_damaged_model_is_reported(folder, tmp_path):
    damaged = tmp_path / "hf"
    shutil.copytree(folder, damaged)
    (damaged / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"cannot be loaded \(\w+: .*\): export it again"):
        load_model(EvaluationConfig(model=str(damaged)))


@pytest.mark.fault(10)
def test_weights_in_a_pickle_are_not_loaded(folder, tmp_path, llama):
    pickled = tmp_path / "hf"
    shutil.copytree(folder, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(llama.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(EvaluationConfig(model=str(pickled)))


def test_a_tokenizer_without_bos_needs_none_and_may_be_told_one(folder, tmp_path):
    without = tmp_path / "hf"
    shutil.copytree(folder, without)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        stored = json.loads((without / name).read_text())
        (without / name).write_text(json.dumps({key: value for key, value in stored.items() if key != "bos_token"}))
    for add_bos in (True, False):
        config = EvaluationConfig(model=str(without), add_bos=add_bos)
        inputs = TaskInputs(config, load_model(config).tokenizer)
        assert inputs.tokenizer.bos_id is None
        assert inputs.start == []
    told = EvaluationConfig(model=str(without), tokenizer=TokenizerConfig(bos_token="</s>"))
    assert load_model(told).tokenizer.bos_id == load_model(told).tokenizer.eos_id


def test_no_model_is_reported():
    with pytest.raises(
        ConfigError, match="model is not set: give model=<Hugging Face folder, folder of a run, or hub name>"
    ):
        load_model(EvaluationConfig())


def test_equal_weights_have_equal_hashes(folder, llama):
    loaded = load_model(EvaluationConfig(model=str(folder)))
    if loaded.describe()["dtype"] == "float32":
        assert loaded.describe()["weights"] == weights_hash(llama)
    changed = copy.deepcopy(llama)
    with torch.no_grad():
        changed.lm_head.weight += 1e-3
    assert weights_hash(changed) != weights_hash(llama)
