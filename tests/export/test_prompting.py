"""What an exported folder says of prompts: BOS once, the text that training saw, what ends it, and padding."""

import dataclasses
import json
from itertools import product
from typing import Any

import pytest
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as RustTokenizer

from meap.config import ModelConfig, TokenizerConfig
from meap.errors import MismatchError
from meap.export.prompting import Prompting, require_readable
from meap.manifest import CONVERSATIONS, ROWS, Manifest
from meap.prep.sft.rendering import ChatTemplate
from meap.prep.sft.templates import DEFAULT_TEMPLATE
from meap.tokenizer import Tokenizer, load_tokenizer
from meap.train.model import decoder_config
from meap.train.usage import usage_after
from meap.usage import Usage
from tests.prep.test_sft_spans import ADDED, PLAIN_ADDED, QWEN3, TABLE, TALK
from tests.small_tokenizer import write_small_tokenizer

CONTEXT = 64
TEMPLATES = {name: template for name, (template, *_) in TABLE.items()} | {
    "qwen3": QWEN3,
    "loops": (
        "{%- for m in messages -%}\n    {%- if not m.content %}{% continue %}{% endif %}\n"
        "    {{- '<|im_start|>' + m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\n"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}\n"
    ),
    "odd header": (
        "{% for m in messages %}{{ '\N{SAILBOAT}\"' + m.role + '\"\\\\:\n' + m.content + eos_token }}{% endfor %}\n"
    ),
}


@pytest.fixture(scope="module")
def load(tokenizer_dir, tmp_path_factory):
    """The small tokenizer with further tokens, another configuration and post-processor, as a base comes with it."""

    def make(config: dict[str, Any], *special: str, processor: Any = None, plain: tuple[str, ...] = ()) -> Tokenizer:
        folder = tmp_path_factory.mktemp("base")
        full = RustTokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
        full.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in special])
        full.add_tokens([AddedToken(each, special=False) for each in plain])
        if processor is not None:
            full.post_processor = processor
        full.save(str(folder / "tokenizer.json"))
        config = {"bos_token": "<s>", "eos_token": "</s>"} | config
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return load_tokenizer(TokenizerConfig(name=str(folder)))

    return make


def manifest_of(tokenizer: Tokenizer, kind: str, *stop_ids: int) -> Manifest:
    nothing = dict.fromkeys(("seq_len", "documents", "tokens", "rows", "dropped_tail_tokens", "bad_lines"), 0)
    return Manifest(
        split="train", dtype="uint16", hash_algorithm="xxh3_64", tokenizer=tokenizer.record, shards=(), sources=(),
        config={}, versions={}, kind=kind, stop_ids=stop_ids, **nothing,
    )  # fmt: skip


def read_back(tokenizer: Tokenizer, usage: Usage, folder: Any, *, with_mask: bool = True) -> Any:
    from transformers import AutoTokenizer

    Prompting(tokenizer, usage, with_mask=with_mask, context=CONTEXT).write(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_is_the_text_that_training_saw_and_its_prompt_ends_where_answers_begin(load, tmp_path, name):
    template = TEMPLATES[name]
    tokenizer = load({"chat_template": template}, *ADDED, plain=PLAIN_ADDED)
    usage = usage_after([manifest_of(tokenizer, CONVERSATIONS, 1)], tokenizer, base=Usage())
    theirs = read_back(tokenizer, usage, tmp_path)
    trained = ChatTemplate(tokenizer, "tokenizer", template)
    for talk in (TALK[:2], TALK) if name != "qwen3" else (TALK[:2],):
        rendered = trained.render(talk)
        assert theirs.apply_chat_template(talk, tokenize=False) == rendered.text
        assert theirs.apply_chat_template(talk, return_dict=False) == rendered.tokens.tolist()
        scored = rendered.flags.tolist()
        ends = [place for place in range(1, len(scored)) if scored[place] and not scored[place - 1]]
        prompt = theirs.apply_chat_template(talk[:-1], add_generation_prompt=True, return_dict=False)
        if name != "r1":  # its prompt opens a thought, which these answers lack
            assert rendered.tokens.tolist()[: ends[-1]] == prompt
        begins = rendered.text.startswith("<s>")
        assert prompt.count(tokenizer.bos_id) == begins == usage.begins_with_bos
        assert theirs("The boats")["input_ids"] == [tokenizer.bos_id] * begins + tokenizer.encode("The boats")


def test_the_default_template_reads_the_input_of_an_alpaca_record(load, tmp_path):
    tokenizer = load({"chat_template": DEFAULT_TEMPLATE})
    usage = usage_after([manifest_of(tokenizer, CONVERSATIONS, 1)], tokenizer, base=Usage())
    talk = [{"role": "user", "content": "Add them.", "input": "2, 3"}, {"role": "assistant", "content": "5"}]
    text = read_back(tokenizer, usage, tmp_path).apply_chat_template(talk, tokenize=False)
    assert text == ChatTemplate(tokenizer, "default", DEFAULT_TEMPLATE).render(talk).text
    assert "### Input:\n2, 3\n\n### Response:\n5</s>" in text


def adding(*, bos: bool = False, eos: bool = False) -> Any:
    single = f"{'<s> ' * bos}$A{' </s>' * eos}"
    return processors.TemplateProcessing(single=single, pair=f"{single} $B:1", special_tokens=[("<s>", 0), ("</s>", 1)])


PROCESSORS = {
    "none": None,
    "offsets": processors.ByteLevel(trim_offsets=True),
    "bos": adding(bos=True),
    "offsets, bos": processors.Sequence([processors.ByteLevel(trim_offsets=True), adding(bos=True)]),
    "both": processors.Sequence([processors.ByteLevel(trim_offsets=True), adding(bos=True, eos=True)]),
    "bert": processors.BertProcessing(("</s>", 1), ("<s>", 0)),
    "roberta": processors.RobertaProcessing(("</s>", 1), ("<s>", 0)),
}
USAGES = {
    "documents": (Usage(begins_with_bos=True), lambda _: True),
    "documents without": (Usage(), lambda _: False),
    "chats": (Usage(CONVERSATIONS, begins_with_bos=True), lambda _: True),
    # Training says nothing about text outside of chats, which stays as the base reads it.
    "chats without": (Usage(CONVERSATIONS), lambda name: name not in ("none", "offsets")),
}


@pytest.mark.parametrize(("processor", "usage"), list(product(PROCESSORS, USAGES)))
def test_text_begins_with_bos_once_and_ends_with_itself(load, tmp_path, processor, usage):
    tokenizer = load({"add_bos_token": True, "add_eos_token": True}, processor=PROCESSORS[processor])
    recorded, has_bos = USAGES[usage]
    theirs = read_back(tokenizer, recorded, tmp_path)
    expected = [0] * has_bos(processor) + tokenizer.encode("The boats")
    assert theirs("The boats")["input_ids"] == expected
    assert theirs(["The boats"] * 2)["input_ids"] == [expected] * 2
    assert theirs.encode("The boats", add_special_tokens=False) == tokenizer.encode("The boats")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (config["add_bos_token"], config["add_eos_token"]) == (has_bos(processor), False)
    # What only changes offsets stays; and what is read again is what it was.
    stored = json.loads((tmp_path / "tokenizer.json").read_text())["post_processor"]
    assert ("ByteLevel" in json.dumps(stored)) == (processor in ("offsets", "offsets, bos", "both"))
    again = load_tokenizer(TokenizerConfig(name=str(tmp_path)))
    assert (again.fingerprint, again.encode("The boats")) == (tokenizer.fingerprint, tokenizer.encode("The boats"))
    again_usage = usage_after([manifest_of(again, ROWS)], again, base=recorded)
    assert again_usage.begins_with_bos, "documents of this tokenizer begin with BOS"


@pytest.mark.parametrize(
    ("config", "special", "generation", "with_mask", "pad"),
    [
        ({"pad_token": "<|endoftext|>"}, ("<|endoftext|>", "<|pad|>"), {}, True, "<|endoftext|>"),
        ({"pad_token": {"content": "</s>"}}, ("<|pad|>",), {}, True, "</s>"),
        ({"pad_token": "<missing>"}, (), {}, True, "[MASK]"),
        ({}, ("<|pad|>",), {"pad_token_id": 1}, True, "</s>"),
        ({}, (), {"pad_token_id": -1}, True, "[MASK]"),
        ({}, ("<unk>", "<|finetune_right_pad_id|>"), {}, True, "<|finetune_right_pad_id|>"),
        ({}, ("<|reserved_special_token_0|>",), {}, True, "<|reserved_special_token_0|>"),
        ({"unk_token": "<unk>"}, ("<unk>",), {}, True, "<unk>"),
        ({"unk_token": "</s>"}, (), {}, True, "[MASK]"),
        ({}, ("<|im_end|>",), {}, True, "[MASK]"),
        ({}, ("<|pad|>",), {"eos_token_id": [300]}, True, "[MASK]"),
        ({}, ("<|im_start|>",), {}, False, "</s>"),
        ({}, ("<|pad|>",), {}, False, "<|pad|>"),
    ],
)
def test_padding_is_the_base_s_or_ends_nothing(load, tmp_path, config, special, generation, with_mask, pad):
    tokenizer = load(config, *special)
    theirs = read_back(tokenizer, Usage(generation=generation), tmp_path, with_mask=with_mask)
    assert (theirs.pad_token, theirs.padding_side) == (pad, "left")
    assert len(theirs) == (tokenizer.vocab_size if with_mask else tokenizer.plain_vocab_size)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written["pad_token_id"] == theirs.pad_token_id
    assert theirs(["The boats", "A"], padding=True)["attention_mask"][1][0] == 0


def test_settings_that_transformers_would_not_save_stay_and_ends_are_joined(load, tmp_path):
    from transformers import GenerationConfig

    generation = {
        "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1, "do_sample": False, "own_setting": {"a": 1},
        "eos_token_id": [7, 1], "suppress_tokens": [5], "_from_model_config": True, "transformers_version": "4.1",
    }  # fmt: skip
    usage = Usage(CONVERSATIONS, True, (9, 7), "{{ bos_token }}", generation)
    tokenizer = load({})
    read_back(tokenizer, usage, tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    changed = {"eos_token_id": [9, 7, 1], "suppress_tokens": [5, tokenizer.mask_id], "bos_token_id": 0}
    same = {name: generation[name] for name in [*generation][:5]}
    version = written.pop("transformers_version")
    assert written == same | changed | {"pad_token_id": tokenizer.mask_id}
    assert version != "4.1"
    assert GenerationConfig.from_pretrained(tmp_path).temperature == 0.6
    with pytest.raises(ValueError, match="temperature"):
        GenerationConfig(**generation).save_pretrained(tmp_path)


@pytest.mark.parametrize("form", [str, lambda each: {"content": each, "lstrip": False}])
def test_special_tokens_that_the_vocabulary_lacks_are_not_added_by_transformers(load, tmp_path, form):
    lacking = {"unk_token": form("<unk>"), "additional_special_tokens": [form("<image>"), form("<|im_end|>")]}
    tokenizer = load(lacking, "<|im_end|>")
    theirs = read_back(tokenizer, Usage(), tmp_path)
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.convert_tokens_to_ids("<|im_end|>") in theirs.all_special_ids


@pytest.mark.parametrize("kind", [ROWS, CONVERSATIONS])
@pytest.mark.parametrize("base_kind", [ROWS, CONVERSATIONS])
@pytest.mark.parametrize("own", [None, "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"])
def test_what_the_base_knew_is_kept_by_whatever_comes_after(load, kind, base_kind, own):
    template = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}{{ 'x' if add_generation_prompt }}"
    if kind == CONVERSATIONS and own is None:
        own = DEFAULT_TEMPLATE
    tokenizer = load({} if own is None else {"chat_template": own})
    base = Usage(
        base_kind,
        False,
        (7, 8),
        template if base_kind == CONVERSATIONS else None,
        {"temperature": 0.6, "eos_token_id": 3},
    )
    manifests = [manifest_of(tokenizer, kind, *ids) for ids in ([(1, 7), (4,)] if kind == CONVERSATIONS else [()])]
    usage = usage_after(manifests, tokenizer, base=base)
    assert usage.kind == (CONVERSATIONS if CONVERSATIONS in (kind, base_kind) else ROWS)
    assert usage.stop_ids == ((1, 7, 4, 8) if kind == CONVERSATIONS else (7, 8))
    assert usage.ends(tokenizer.eos_id) == list(dict.fromkeys([*usage.stop_ids, 1, 3]))
    assert usage.chat_template == (own if kind == CONVERSATIONS or base_kind == ROWS else template)
    assert (usage.generation, usage.begins_with_bos) == (base.generation, True)


def test_documents_without_bos_have_none(load):
    tokenizer = load({})
    without = tokenizer.without_bos()
    assert not usage_after([manifest_of(without, ROWS)], without, base=Usage()).begins_with_bos
    one_for_both = dataclasses.replace(tokenizer, bos_token="</s>", separator="eos")
    assert not usage_after([manifest_of(one_for_both, ROWS)], one_for_both, base=Usage()).begins_with_bos


@pytest.mark.parametrize(("architecture", "is_readable"), [("llama", True), ("qwen2", False)])
def test_a_tokenizer_that_an_export_would_refuse_is_refused_before_training(architecture, is_readable, tmp_path, capfd):
    """A byte-level BPE without Qwen's way to split digits, which transformers puts in its place."""
    write_small_tokenizer(tmp_path, ["12,345 times!"] * 20, vocab_size=300)
    tokenizer = load_tokenizer(TokenizerConfig(name=str(tmp_path)))
    config = decoder_config(ModelConfig(architecture=architecture), vocab_size=tokenizer.vocab_size, seq_len=16)
    if is_readable:
        require_readable(tokenizer, config)
    else:
        with pytest.raises(
            MismatchError, match=r"transformers reads tokenizer .* as Qwen2Tokenizer, which encodes text"
        ):
            require_readable(tokenizer, config)
    assert not capfd.readouterr().err
