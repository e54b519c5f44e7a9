"""Every yaml loads, every run of the paper has one with exactly its settings, and every training yaml its model."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from meap.config import EvaluationConfig, PrepConfig, RecipeConfig, SftConfig, SftPrepConfig, load_config

FOLDER = Path(__file__).resolve().parent.parent / "yamls"
YAMLS = sorted(FOLDER.rglob("*.yaml"))
PREPARATION = [path for path in YAMLS if path.name.startswith("prep_")]
FINE_TUNING = [path for path in YAMLS if path.name.startswith("sft_")]
EVALUATION = [path for path in YAMLS if path.name.startswith("eval")]
TRAINING = [path for path in YAMLS if path not in [*PREPARATION, *FINE_TUNING, *EVALUATION]]
PADDED_VOCABULARY = 32_064

# The paper's architectures: hidden, layers, heads, kv heads, intermediate.
SIZES = {
    "0.1B": (768, 12, 12, 2, 2048),
    "0.3B": (1024, 24, 16, 2, 2736),
    "0.5B": (1024, 24, 16, 2, 4864),
    "1.1B": (2048, 24, 32, 2, 5632),
}


@dataclass(frozen=True)
class Run:
    """What decides a training run of the paper; what is the same in all of them is `common` below."""

    model: tuple[int, ...] | str
    """Sizes of a fresh model, or its config.json; or the base and, for a longer context, its theta."""
    duration: str
    ratio: float
    span_length: int = 1
    lr: float = 4e-4
    batch: int = 256
    seq_len: int = 4096
    is_official: bool = False


def pretraining(size: str, steps: int, ratio: float, *, span_length: int = 1) -> Run:
    return Run(SIZES[size], f"{steps}ba", ratio, span_length)


def extension(base: str, ratio: float) -> Run:
    return Run(f"{base} at theta 640000", "4000000000tok", ratio, lr=8e-5, batch=16, seq_len=65_536)


def fine_tuning(base: str, epochs: int, ratio: float, *, context: int = 8192) -> Run:
    # A row is an original and its copy; the control's is half as long. 131,072 positions are about 512 conversations.
    seq_len = context if ratio else context // 2
    return Run(base, f"{epochs}ep", ratio, lr=2e-5, batch=131_072 // context, seq_len=seq_len)


TUNED = (
    "meta-llama/Meta-Llama-3-8B",
    "meta-llama/Llama-3.2-3B",
    "mistral-community/Mistral-7B-v0.2",
    "Qwen/Qwen2.5-14B",
)
STEPS = {20: 20_000, 40: 40_000, 60: 60_000, 200: 190_000}
PAPER = {
    "Tables 1, 10, 16 to 18": [pretraining("1.1B", STEPS[200], ratio) for ratio in (0.15, 0.0)],
    "section 4.1": [pretraining("1.1B", STEPS[budget], ratio) for budget in (20, 40, 60) for ratio in (0.15, 0.0)],
    "Tables 2, 3": [
        extension(f"runs/1b{budget}{control}", ratio)
        for budget in ("_40b", "_60b", "")
        for control, ratio in (("", 0.15), ("_ntp", 0.0))
    ],
    "Table 4": [
        fine_tuning("runs/1b/hf", 2, 0.10, context=4096),
        fine_tuning("runs/1b_ntp/hf", 4, 0.0, context=4096),
    ],
    "Tables 5 to 8": [
        fine_tuning(base, *epochs_and_ratio) for base in TUNED for epochs_and_ratio in ((2, 0.10), (4, 0.0))
    ],
    "Table 9, pre-training": [pretraining("1.1B", STEPS[200], ratio) for ratio in (0.0, 0.05, 0.10, 0.15, 0.20)],
    "Table 9, fine-tuning": [
        fine_tuning(TUNED[0], *epochs_and_ratio) for epochs_and_ratio in ((6, 0.0), (3, 0.05), (3, 0.10), (3, 0.15))
    ],
    "Figure 5": [
        fine_tuning(TUNED[0], *epochs_and_ratio)
        for epochs in (1, 2, 3)
        for epochs_and_ratio in ((epochs, 0.10), (2 * epochs, 0.0))
    ],
    "Table 12": [
        pretraining(size, steps, ratio)
        for size, steps in (("0.1B", 1_907), ("0.3B", 4_768), ("0.5B", 10_000))
        for ratio in (0.15, 0.0)
    ],
    "Table 14": [pretraining("1.1B", STEPS[200], ratio) for ratio in (0.0, 0.05, 0.10, 0.15)],
    "the official code's": [
        *(pretraining("0.1B", 1_907, ratio) for ratio in (0.05, 0.10)),
        *(pretraining("0.3B", 4_768, ratio) for ratio in (0.05, 0.10, 0.15, 0.20)),
        *(pretraining("0.5B", 10_000, ratio) for ratio in (0.05, 0.10, 0.15, 0.20)),
        dataclasses.replace(pretraining("0.1B", 1_907, 0.10), is_official=True),
    ],
    "Table 15": [
        *(pretraining("0.3B", 4_768, 0.15, span_length=length) for length in (1, 5, 50)),
        pretraining("0.3B", 4_768, 0.0),
    ],
}
# Tokens that the paper names for a number of steps.
TOKENS = {1_907: 2e9, 4_768: 5e9, 10_000: 10e9, **{steps: budget * 1e9 for budget, steps in STEPS.items()}}


def run_of(config: RecipeConfig) -> Run:
    model, masking = config.model, config.masking
    if model.config is not None:
        described = model.config
    elif model.base is None:
        described = (
            model.hidden_size,
            model.num_hidden_layers,
            model.num_attention_heads,
            model.num_key_value_heads,
            model.intermediate_size,
        )
    else:
        theta = "" if model.base_rope_theta is None else f" at theta {model.base_rope_theta:g}"
        described = f"{model.base}{theta}"
    return Run(
        described,
        config.train.max_duration,
        masking.ratio,
        masking.tokens_per_span,
        config.optimizer.lr,
        config.train.global_batch_size,
        config.data.seq_len,
        (masking.preset, config.optimizer.decay_norms) == ("official", True),
    )


@pytest.fixture(scope="module")
def configs() -> dict[str, RecipeConfig]:
    return {path.stem: load_config(RecipeConfig, path) for path in [*TRAINING, *FINE_TUNING]}


@pytest.mark.parametrize("table", PAPER)
def test_every_run_of_the_paper_has_a_yaml(table: str, configs):
    runs = {run_of(config): name for name, config in configs.items()}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    row = "\n".join(line for line in readme.splitlines() if line.startswith(("| " + table, "| ... and NTP")))
    for run in PAPER[table]:
        assert run in runs, f"no yaml is {run}"
        assert f"[{runs[run]}](" in row, f"the README's row of {table} does not name {runs[run]}"


def test_every_yaml_is_a_run_of_the_paper_or_a_small_one(configs):
    known = {run for runs in PAPER.values() for run in runs}
    assert {name for name, config in configs.items() if run_of(config) not in known} == {
        "tiny",
        "tiny_long",
        "sft_tiny",
        "qwen3_0.6b",
        "sft_llama3_8b_lora",
        "sft_chats",
    }
    assert len({run_of(config) for config in configs.values()}) == len(configs), "two yamls are the same run"


def test_what_all_runs_of_the_paper_share(configs):
    for name, config in configs.items():
        if "tiny" in name or name.startswith("qwen3") or "official" in name:
            continue
        optimizer, masking = config.optimizer, config.masking
        assert (optimizer.betas, optimizer.grad_clip_norm, config.scheduler.warmup_ratio) == ((0.9, 0.95), 1.0, 0.1)
        assert (masking.site, masking.preset, masking.schedule, masking.mask_last) == (
            "dataset",
            None,
            "constant",
            False,
        )
        is_sft = name.startswith("sft_")
        assert (optimizer.weight_decay, config.scheduler.final_ratio) == ((0.01, 0.0) if is_sft else (0.05, 0.1))
        if is_sft:
            assert config.sft == SftConfig(layout="concat", loss="answer+masked", weighting="tokens")
            sharding = "none" if config.lora.rank else "full" if "14b" in name else "grad_op"
            assert config.train.sharding == sharding
        if config.model.base is None:
            assert (config.model.rope_theta, config.model.rms_norm_eps, config.model.vocab_multiple) == (1e4, 1e-5, 64)
            steps = int(config.train.max_duration.removesuffix("ba"))
            assert steps * config.train.global_batch_size * config.data.seq_len == pytest.approx(
                TOKENS[steps], rel=0.05
            )
        if config.data.seq_len > 4096:
            assert config.train.activation_checkpointing, "logits and activations of long rows need the memory"


def test_runs_are_named_after_their_yamls_which_have_names_of_their_own(configs):
    assert len(configs) == len(TRAINING) + len(FINE_TUNING), "two yamls of one name would be one run"
    assert all(config.run.name == name for name, config in configs.items())


def test_the_table_of_yamls_lists_them_all():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\[([\w.]+)\]\(([\w./]+\.yaml)\)", readme)
    assert {(FOLDER / target).resolve() for _, target in linked} == {*YAMLS}
    assert all(Path(target).stem == shown for shown, target in linked)


def test_variants_say_only_what_they_change():
    for path in YAMLS:
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        if path.parent.name in {"ablations", "budgets", "controls", "official"}:
            assert lines[0].startswith("base: "), path
            assert len(lines) <= 5, path


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
    config = load_config(EvaluationConfig, FOLDER / "eval.yaml")
    assert (config.multidoc_qa.documents, config.multidoc_qa.positions) == ((10, 20), (1, 5, 10, 15, 20))
    assert config.multidoc_qa.questions == 0
    assert max(config.needle_fu.lengths) == 32_768
    assert len(config.commonsense.tasks) == 7
    assert config.hallucination.examples == 100
    assert None not in (config.hallucination.xsum, config.hallucination.multi_news, config.hallucination.wikisum)
    assert (config.multi_needle.needles, config.multi_needle.trials) == ((2, 3, 4, 5), 10)
    assert (min(config.multi_needle.lengths), max(config.multi_needle.lengths)) == (1000, 32_000)
    assert config.ancestral_trace.relations == tuple(2**power for power in range(1, 10))


def test_an_evaluation_for_what_1b_yaml_trains(configs):
    config = load_config(EvaluationConfig, FOLDER / "eval_4k.yaml")
    assert max(config.needle_fu.lengths) == max(config.needle_magic.lengths) == configs["1b"].data.seq_len
    assert config.multidoc_qa.source is None


@pytest.mark.parametrize("size", SIZES)
def test_models_have_the_size_they_are_named_for(size: str, configs, capsys: pytest.CaptureFixture[str]):
    import torch
    from transformers import LlamaForCausalLM

    from meap.train.model import decoder_config

    config = configs[{"1.1B": "1b"}.get(size, size.lower())]
    architecture = decoder_config(config.model, vocab_size=32_001, seq_len=config.data.seq_len)
    with torch.device("meta"):
        model = LlamaForCausalLM(architecture)
    total = sum(parameter.numel() for parameter in model.parameters())
    body = total - 2 * architecture.vocab_size * architecture.hidden_size
    with capsys.disabled():
        print(f"\n{size}: {total:,} parameters, {body:,} without embedding and head", end="")
    assert architecture.vocab_size == PADDED_VOCABULARY
    assert total == count_parameters(*SIZES[size])


def test_rows_fit_what_preparation_writes(configs):
    alpaca = load_config(SftPrepConfig, FOLDER / "prep_alpaca.yaml")
    long = load_config(PrepConfig, FOLDER / "prep_slimpajama_64k.yaml")
    for name, config in configs.items():
        if name.startswith("sft_llama3_8b"):
            assert alpaca.max_length is None, "4,096, or half of the context, which fits either model"
            assert config.data.seq_len == 4096 * (2 if config.masking.ratio else 1)
        if name.endswith("_64k"):
            assert config.data.seq_len == long.seq_len
            expected = {stream: f"{long.remote}/{stream}" for stream in long.streams}
            assert {stream: each.remote for stream, each in config.data.streams.items()} == expected
            # The base of a run is the folder of the run whose name is the same without the ending.
            assert config.model.base == configs[name.removesuffix("_64k")].run.dir


def test_a_control_differs_from_its_run_in_the_ratio_only(configs):
    for name, control in configs.items():
        if "_ntp" not in name or name.startswith("sft_"):
            continue
        run = configs[name.replace("_ntp", "")]
        assert control.masking == dataclasses.replace(run.masking, ratio=0.0)
        for field in dataclasses.fields(run):
            if field.name not in {"run", "masking", "model", "checkpoint", "export"}:
                assert getattr(run, field.name) == getattr(control, field.name)
        assert dataclasses.replace(control.model, base=None, base_rope_theta=None) == dataclasses.replace(
            run.model, base=None, base_rope_theta=None
        )
