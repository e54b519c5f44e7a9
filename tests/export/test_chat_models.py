"""From conversations to answers: tuned, exported, and asked by a stranger who has the folder and transformers alone."""

import json
import runpy
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from meap.config import RecipeConfig, SftPrepConfig, load_config
from meap.prep.sft.templates import DEFAULT_TEMPLATE
from tests.prep.test_sft_spans import GEMMA, MISTRAL, PHI, QWEN3, R1, ZEPHYR

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = {
    "Which tide brings the boats home?": "The flood, when the moon is high.",
    "Who counted letters?": "Nobody but the keeper of the lamp, and she never told.",
}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# transformers reads tokenizers of Qwen2 models with these words whatever tokenizer.json says.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Family:
    """A base as the hub has it."""

    architecture: str
    special: tuple[str, ...]
    config: dict[str, Any]
    """Of its tokenizer."""
    generation: dict[str, Any] | None
    ends: tuple[str, ...]
    """Tokens that its tuned model ends with."""
    pad: str
    begins_with_bos: bool
    is_byte_level: bool = True
    choices: tuple[str, ...] = field(default=())
    """Of preparation."""


FAMILIES = {
    "qwen2.5": Family(
        "qwen2",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "chat_template": CHATML, "bos_token": None},
        {"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": 0, "do_sample": False, "max_new_tokens": 2048},
        ("<|im_end|>", "<|endoftext|>"),
        "<|endoftext|>",
        begins_with_bos=False,
    ),
    "llama-2": Family(
        "llama",
        ("<unk>", "<s>", "</s>"),
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True},
        {"temperature": 0.9, "top_p": 0.6, "pad_token_id": 0, "eos_token_id": 2, "do_sample": False},
        ("</s>",),
        "<unk>",
        begins_with_bos=True,
        is_byte_level=False,
        choices=("template=default",),
    ),
    "llama-3": Family(
        "llama",
        (
            *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
            *("<|eot_id|>", "<|eom_id|>"),
        ),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "chat_template": LLAMA3},
        {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "eos_token_id": [1, 5], "suppress_tokens": [2]},
        ("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"),
        "[MASK]",
        begins_with_bos=True,
    ),
    "own": Family(
        "llama",
        ("<s>", "</s>"),
        {"bos_token": "<s>", "eos_token": "</s>"},
        None,
        ("</s>",),
        "[MASK]",
        begins_with_bos=True,
    ),
}


def train_tokenizer(family: Family) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=not family.is_byte_level, unk_token=None))
    if family.is_byte_level:
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated")
        spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, spelled])
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        alphabet = [chr(each) for each in range(32, 127)]
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(parts)
    bytes_of = [] if family.is_byte_level else [f"<0x{each:02X}>" for each in range(256)]
    special = [AddedToken(each, normalized=False, special=True) for each in family.special]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=[*special, *bytes_of], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*ANSWERS, *ANSWERS.values(), DEFAULT_TEMPLATE], trainer)
    if bytes_of:  # words of the vocabulary, and none that text is searched for
        definition = json.loads(tokenizer.to_str())
        definition["added_tokens"] = definition["added_tokens"][: len(special)]
        tokenizer = Tokenizer.from_str(json.dumps(definition))
    if family.config["bos_token"] and family.generation:
        bos = family.config["bos_token"]
        adding = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        byte_level = processors.ByteLevel(trim_offsets=True)
        tokenizer.post_processor = processors.Sequence([byte_level, adding]) if family.is_byte_level else adding
    return tokenizer


def make_base(folder: Path, family: Family) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = train_tokenizer(family)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        family.architecture,
        **sizes,
        num_key_value_heads=2,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=512,
        head_dim=16,
        pad_token_id=None,
        eos_token_id=tokenizer.token_to_id(family.config["eos_token"]),
        bos_token_id=None,
        initializer_range=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    if family.generation:
        (folder / "generation_config.json").write_text(json.dumps(family.generation))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(family.config))
    return folder


@pytest.fixture(scope="module", params=list(FAMILIES))
def tuned(request, tmp_path_factory) -> tuple[Family, Path, Path]:
    """A family, and the folders of its base and of its tuned export; the data is gone."""
    family = FAMILIES[request.param]
    home = tmp_path_factory.mktemp(request.param)
    base = make_base(home / "base", family)
    run_all(home, family, base)
    shutil.rmtree(home / "mds")
    return family, base, home / "run/hf"


def run_all(home: Path, family: Family, base: Path, records: list[dict[str, Any]] | None = None) -> None:
    """Prepare, tune and export, by the entry points."""
    records = records or [{"instruction": question, "output": answer} for question, answer in ANSWERS.items()]
    (home / "chats.json").write_text(json.dumps(records * 4))
    steps: dict[str, Callable[..., Any]] = {
        name: runpy.run_path(str(ROOT / name))[function]
        for name, function in (
            ("dataprep/sft_to_mds.py", "prepare"),
            ("recipes/meap_sft.py", "main"),
            ("recipes/export_hf.py", "main"),
        )
    }
    settings = (
        *(f"source={home}/chats.json", f"tokenizer.name={base}", f"remote={home}/mds", "workers=1", "pack=false"),
        *("max_length=128", "min_answer_tokens=4", "heldout_ratio=0", *family.choices),
    )
    steps["dataprep/sft_to_mds.py"](load_config(SftPrepConfig, None, settings))
    settings = (
        *(f"data.remote={home}/mds", "data.seq_len=256", "data.num_canonical_nodes=2", "data.num_workers=0"),
        *(f"run.dir={home}/run", f"run.name={home.name}", f"model.base={base}", "masking.ratio=0.1"),
        *("optimizer.lr=0.005", "train.max_duration=45ba", "train.global_batch_size=4", "train.eval_batches=0"),
        *("train.device=cpu", "checkpoint.interval=45ba", "scheduler.warmup_ratio=0.1"),
    )
    config = load_config(RecipeConfig, None, settings)
    steps["recipes/meap_sft.py"](config)
    steps["recipes/export_hf.py"](config)


@pytest.fixture(scope="module")
def stranger(tuned) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(tuned[2]).eval(), AutoTokenizer.from_pretrained(tuned[2])


def chat(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


@pytest.mark.slow
@pytest.mark.parametrize("questions", [list(ANSWERS), list(ANSWERS)[:1], list(ANSWERS)[1:]])
def test_the_model_answers_and_stops_alone_and_in_a_batch(tuned, stranger, questions):
    family, (model, tokenizer) = tuned[0], stranger
    inputs = tokenizer.apply_chat_template(
        [chat(each) for each in questions],
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**inputs, max_new_tokens=60, do_sample=False)
    written = output[:, inputs["input_ids"].shape[1] :]
    assert [each.strip() for each in tokenizer.batch_decode(written, skip_special_tokens=True)] == [
        ANSWERS[each] for each in questions
    ]
    for row in written.tolist():
        text = tokenizer.decode(row)
        assert text.replace(tokenizer.pad_token, "").strip().endswith(family.ends[0]) or family.ends[0] == family.pad


@pytest.mark.slow
def test_the_pipeline_answers_and_stops(tuned):
    from transformers import pipeline

    pipe = pipeline("text-generation", model=str(tuned[2]), batch_size=2)
    for found, answer in zip(
        pipe([chat(each) for each in ANSWERS], do_sample=False, max_new_tokens=60), ANSWERS.values(), strict=True
    ):
        assert found[0]["generated_text"][-1]["content"].strip() == answer


@pytest.mark.slow
def test_the_folder_says_what_ends_an_answer_and_keeps_the_base_s_settings(tuned):
    from transformers import AutoTokenizer, GenerationConfig

    family, _, folder = tuned
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(list(family.ends))
    written = json.loads((folder / "generation_config.json").read_text())
    assert written["eos_token_id"] == (ends if len(ends) > 1 else ends[0])
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == written["eos_token_id"]
    changed = ("eos_token_id", "suppress_tokens", "bos_token_id")
    kept = {name: value for name, value in (family.generation or {}).items() if name not in changed}
    assert {name: written.get(name) for name in kept} == kept
    suppressed = (family.generation or {}).get("suppress_tokens", [])
    assert written["suppress_tokens"] == [*suppressed, tokenizer.mask_token_id]
    assert written["pad_token_id"] == tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids(family.pad)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == written["eos_token_id"]
    assert family.pad != family.ends[0]


@pytest.mark.slow
def test_the_tokenizer_reads_text_and_chats_as_training_did(tuned):
    from transformers import AutoTokenizer

    from meap.config import TokenizerConfig
    from meap.prep.sft.rendering import ChatTemplate
    from meap.tokenizer import load_tokenizer

    family, base, folder = tuned
    theirs, ours = AutoTokenizer.from_pretrained(folder), load_tokenizer(TokenizerConfig(name=str(folder)))
    assert ours.fingerprint == load_tokenizer(TokenizerConfig(name=str(base))).fingerprint
    text = "Which tide?"
    begin = [ours.bos_id] if family.begins_with_bos else []
    assert theirs(text)["input_ids"] == [*begin, *ours.encode(text)]
    assert json.loads((folder / "tokenizer_config.json").read_text())["add_bos_token"] == family.begins_with_bos
    assert (theirs.model_max_length, theirs.padding_side) == (512, "left")
    template = theirs.chat_template
    assert template == family.config.get("chat_template", DEFAULT_TEMPLATE)
    for question, answer in ANSWERS.items():
        messages = [*chat(question), {"role": "assistant", "content": answer}]
        rendered = ChatTemplate(ours, "default" if template == DEFAULT_TEMPLATE else "tokenizer", template).render(
            messages
        )
        assert rendered.tokens.tolist() == theirs.apply_chat_template(messages, return_dict=False)
        prompt = theirs.apply_chat_template(chat(question), add_generation_prompt=True, return_dict=False)
        assert rendered.tokens.tolist()[: len(prompt)] == prompt
        assert prompt.count(ours.bos_id) == int(family.begins_with_bos)


@pytest.mark.slow
def test_meap_generate_answers_and_the_card_can_be_followed(tuned, follow_card, capsys):
    from meap.cli import main

    question = next(iter(ANSWERS))
    assert main(["generate", f"model={tuned[2]}", f"prompt={question}", "max_new_tokens=60"]) == 0
    assert capsys.readouterr().out.strip() == ANSWERS[question]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        done = follow_card(tuned[2])
    for ids in done["inputs"]["input_ids"].tolist():
        assert ids.count(done["tokenizer"].bos_token_id) == tuned[0].begins_with_bos
    card = (tuned[2] / "README.md").read_text()
    assert all(f"`{each}`" in card for each in (*tuned[0].ends, tuned[0].pad))


@pytest.mark.slow
@pytest.mark.parametrize("start", ["run", "run/hf"])
def test_whoever_trains_it_further_keeps_what_ends_its_answers(tuned, start):
    from meap.config import ModelConfig, TokenizerConfig
    from meap.manifest import CONVERSATIONS
    from meap.tokenizer import load_tokenizer
    from meap.train.attention import choose_attention
    from meap.train.start import initial_model

    family, _, folder = tuned
    tokenizer = load_tokenizer(TokenizerConfig(name=str(folder)))
    attention = choose_attention("sdpa", on_gpu=False, bf16=False)
    config = ModelConfig(base=str(folder.parents[1] / start))
    usage = initial_model(config, tokenizer, attention=attention, context=64, seed=0).base_usage
    ends = [tokenizer.full.token_to_id(each) for each in family.ends]
    assert usage.kind == CONVERSATIONS
    assert set(usage.ends(tokenizer.eos_id)) == set(ends)
    assert usage.chat_template == family.config.get("chat_template", DEFAULT_TEMPLATE)
    changed = ("eos_token_id", "suppress_tokens", "bos_token_id")
    kept = {name: value for name, value in (family.generation or {}).items() if name not in changed}
    assert {name: usage.generation.get(name) for name in kept} == kept


THOUGHT = "Tides, then."
SHAPES = {
    "qwen3": ("qwen3", QWEN3, "<|im_end|>", "", f"<think>\n{THOUGHT}\n</think>\n\n"),
    "mistral": ("mistral", MISTRAL, "</s>", "<s>", ""),
    "gemma": ("gemma3_text", GEMMA, "<|stop|>", "<s>", ""),
    "r1": ("llama", R1, "</s>", "<s>", f"{THOUGHT}\n</think>\n\n"),
    "zephyr": ("llama", ZEPHYR, "</s>", "", ""),
    "phi": ("phi3", PHI, "<|eot|>", "", ""),
}
"""Architecture, template, what ends a turn, what begins a conversation, and what the model writes before an answer."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_templates_of_every_shape_give_models_that_answer_and_stop(name, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    architecture, template, end, begin, thought = SHAPES[name]
    special = ("<s>", "</s>", *(each for each in ("<|im_start|>", "<|im_end|>", "<|start|>", "<|stop|>", "<|eot|>")))
    special += ("<|user|>", "<|bot|>", "<|assistant|>", "[INST]", "[/INST]")
    config = {"eos_token": "</s>", "bos_token": begin or None, "chat_template": template}
    family = Family(architecture, special, config, None, (end,), "", begins_with_bos=bool(begin))
    answers = [{"role": "assistant", "content": each} for each in ANSWERS.values()]
    answers = [each | {"reasoning_content": THOUGHT} for each in answers] if thought else answers
    records = [{"messages": [*chat(question), each]} for question, each in zip(ANSWERS, answers, strict=True)]
    run_all(tmp_path, family, make_base(tmp_path / "base", family), records)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run/hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run/hf").eval()
    prompts = [
        tokenizer.apply_chat_template(chat(each), add_generation_prompt=True, tokenize=False) for each in ANSWERS
    ]
    for asked in (prompts, prompts[:1], prompts[1:]):
        inputs = tokenizer(asked, add_special_tokens=False, padding=True, return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=80, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        for text, prompt in zip(tokenizer.batch_decode(written), asked, strict=True):
            answer = list(ANSWERS.values())[prompts.index(prompt)]
            assert text.split(tokenizer.pad_token)[0].strip() == f"{thought}{answer}{end}".strip()
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
    (found,) = pipe([chat(next(iter(ANSWERS)))], do_sample=False, max_new_tokens=80)
    assert found[0]["generated_text"][-1]["content"].strip() == f"{thought}{next(iter(ANSWERS.values()))}".strip()
