"""Every yaml loads, and every training yaml builds its model, with the sizes of the paper."""

from pathlib import Path

import pytest

from meap.config import EvaluationConfig, PrepConfig, SftPrepConfig, TrainingConfig, load_config

YAMLS = sorted((Path(__file__).resolve().parent.parent / "yamls").glob("*.yaml"))
PREPARATION = [path for path in YAMLS if path.name.startswith("prep_")]
FINE_TUNING = [path for path in YAMLS if path.name.startswith("sft_")]
EVALUATION = [path for path in YAMLS if path.name.startswith("eval")]
TRAINING = [path for path in YAMLS if path not in [*PREPARATION, *FINE_TUNING, *EVALUATION]]

# The paper's architectures: hidden, layers, heads, kv heads, intermediate, training steps.
PAPER = {
    "0.1b.yaml": (768, 12, 12, 2, 2048, 1_907),
    "0.3b.yaml": (1024, 24, 16, 2, 2736, 4_768),
    "0.5b.yaml": (1024, 24, 16, 2, 4864, 10_000),
    "1b.yaml": (2048, 24, 32, 2, 5632, 190_000),
}
PADDED_VOCABULARY = 32_064


def count_parameters(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int) -> int:
    """A Llama with an untied head, counted by hand."""
    attention = 2 * hidden * hidden + 2 * hidden * (hidden // heads) * kv_heads
    layer = attention + 3 * hidden * intermediate + 2 * hidden
    return 2 * PADDED_VOCABULARY * hidden + layers * layer + hidden


@pytest.mark.parametrize("path", PREPARATION, ids=lambda path: path.name)
def test_preparation_yamls_load(path: Path):
    config_class = SftPrepConfig if path.name == "prep_alpaca.yaml" else PrepConfig
    assert load_config(config_class, path).source


@pytest.mark.parametrize("path", EVALUATION, ids=lambda path: path.name)
def test_evaluation_yamls_load(path: Path):
    assert load_config(EvaluationConfig, path).model is None, "the model is named on the command line"


def test_the_paper_s_evaluations():
    config = load_config(EvaluationConfig, YAMLS[0].parent / "eval.yaml")
    assert (config.multidoc_qa.documents, config.multidoc_qa.positions) == ((10, 20), (1, 5, 10, 15, 20))
    assert config.multidoc_qa.questions == 0
    assert max(config.needle_fu.lengths) == 32_768
    assert len(config.commonsense.tasks) == 7


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.name)
def test_training_yamls_load_and_build_their_model(path: Path, capsys: pytest.CaptureFixture[str]):
    import torch
    from transformers import LlamaForCausalLM

    from meap.train.model import llama_config

    config = load_config(TrainingConfig, path)
    assert config.run.name == path.stem, "a run is named after its yaml"
    architecture = llama_config(config.model, vocab_size=32_001, seq_len=config.data.seq_len)
    with torch.device("meta"):
        model = LlamaForCausalLM(architecture)
    total = sum(parameter.numel() for parameter in model.parameters())
    body = total - 2 * architecture.vocab_size * architecture.hidden_size
    with capsys.disabled():
        print(f"\n{path.name}: {total:,} parameters, {body:,} without embedding and head", end="")
    if path.name in PAPER:
        *shape, steps = PAPER[path.name]
        assert config.train.max_duration == f"{steps}ba"
        assert architecture.vocab_size == PADDED_VOCABULARY
        assert total == count_parameters(*shape)


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_paper_s_hyper_parameters(name: str):
    config = load_config(TrainingConfig, YAMLS[0].parent / name)
    assert config.masking.ratio == 0.15
    assert (config.data.seq_len, config.train.global_batch_size) == (4096, 256)
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay, optimizer.grad_clip_norm) == (
        4e-4,
        (0.9, 0.95),
        0.05,
        1.0,
    )
    assert (config.scheduler.warmup_ratio, config.scheduler.final_ratio) == (0.1, 0.1)
    assert (config.model.rope_theta, config.model.rms_norm_eps, config.model.vocab_multiple) == (10_000.0, 1e-5, 64)


@pytest.mark.parametrize("path", FINE_TUNING, ids=lambda path: path.name)
def test_fine_tuning_yamls_are_the_paper_s_but_for_the_tiny_one(path: Path):
    """Section 4.2: Alpaca, AdamW, 2e-5, 10 % warm-up, cosine, ratio 0.10, copies attending to their originals."""
    config = load_config(TrainingConfig, path)
    assert config.run.name == path.stem, "a run is named after its yaml"
    assert config.model.base
    assert (config.masking.ratio, config.masking.site) == (0.10, "dataset")
    assert (config.sft.layout, config.sft.loss, config.sft.min_answer_tokens) == ("concat", "answer+masked", None)
    assert config.scheduler.warmup_ratio == 0.1
    assert config.optimizer.weight_decay == 0.01
    if path.name != "sft_tiny.yaml":
        optimizer = config.optimizer
        assert (optimizer.lr, optimizer.betas, optimizer.grad_clip_norm) == (2e-5, (0.9, 0.95), 1.0)
        assert config.data.seq_len == 2 * load_config(SftPrepConfig, path.parent / "prep_alpaca.yaml").max_length
        assert config.train.sharding == ("full" if "14b" in path.name else "grad_op")


def test_the_control_differs_from_its_run_in_the_ratio_only():
    import dataclasses

    folder = YAMLS[0].parent
    run, control = (load_config(TrainingConfig, folder / name) for name in ("1b.yaml", "1b_ntp.yaml"))
    assert control.masking.ratio == 0.0
    for field in dataclasses.fields(run):
        if field.name not in {"run", "masking", "checkpoint", "export"}:
            assert getattr(run, field.name) == getattr(control, field.name)
