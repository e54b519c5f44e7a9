"""Prompts with needles read as published, whatever the tokenizer: text, decoded, not pieces that were encoded apart."""

import dataclasses
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, trainers

from meap.config import TokenizerConfig
from meap.evals.haystack import open_haystack
from meap.evals.tasks import TASKS, multi_needle, needle_fu, needle_magic
from meap.tokenizer import load_tokenizer

LLAMA2 = Path(__file__).parents[4] / "shared" / "data" / "tokenizers" / "llama2"
SMALL = (
    *("needle_fu.trials=2", "needle_magic.needles=2", "needle_magic.asked=2"),
    *("multi_needle.lengths=[900]", "multi_needle.needles=[2]"),
)


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    """Every text begins with a space, spaces are part of words, and unknown characters are bytes: as Llama 2 has it."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    tokenizer = RustTokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    words = "The magic number of San Francisco is 1234567890 . What are you? Now, the book is on the old river."
    tokenizer.train_from_iterator(words.split(" ") * 3, trainer)
    stored = json.loads(tokenizer.to_str())
    stored["added_tokens"] = [each for each in stored["added_tokens"] if each["content"][:3] != "<0x"]
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return load_tokenizer(TokenizerConfig(name=str(folder)))


@pytest.fixture(params=["byte level", "SentencePiece", "Llama 2"])
def any_tokenizer(request, tokenizer, sentencepiece):
    if request.param == "Llama 2":
        if not LLAMA2.is_dir():
            pytest.skip(f"{LLAMA2} is not there")
        return load_tokenizer(TokenizerConfig(name=str(LLAMA2)))
    return tokenizer if request.param == "byte level" else sentencepiece


def published(name, example, config):
    """The frame of a prompt, and the needles in the haystack."""
    facts = example.facts
    if name == "needle_fu":
        return needle_fu.BEFORE, needle_fu.BEHIND.format(question=config.needle_fu.question), [facts["needle"]]
    if name == "needle_magic":
        cities = facts["city"].replace(", ", " and ")
        asked = zip(facts["city"].split(", "), example.answers[0].split(", "), strict=True)
        needles = [f"\n{needle_magic.NEEDLE.format(city=city, number=number)}\n" for city, number in asked]
        return needle_magic.INSTRUCTION, "\n" + needle_magic.QUESTIONS.format(cities=cities), needles
    needles = [f"\n{each}\n" for each in facts["derivations"]]
    return multi_needle.BEFORE, multi_needle.BEHIND.format(question=facts["question"]), needles


@pytest.mark.parametrize("name", ["needle_fu", "needle_magic", "multi_needle"])
def test_the_model_reads_the_published_text(name, any_tokenizer, make_inputs):
    inputs = dataclasses.replace(make_inputs(*SMALL), tokenizer=any_tokenizer)
    longest = max(getattr(inputs.config, name).lengths)
    haystack = open_haystack(inputs.config.haystack, any_tokenizer, inputs.config.seed, 2 * longest)
    repeated = haystack.take(9 * longest).text
    for example in TASKS[name].examples(inputs):
        text = any_tokenizer.decode(example.prompt.tolist(), skip_special_tokens=True)
        before, behind, needles = published(name, example, inputs.config)
        assert text.startswith(before)
        assert text.endswith(behind)
        hay = text.removeprefix(before).removesuffix(behind)
        for needle in needles:
            assert hay.count(needle) == (not example.control)
            hay = hay.replace(needle, "", 1)
        assert len(hay) > 20
        assert hay in repeated, "the needle divides the text, and changes no other character"
