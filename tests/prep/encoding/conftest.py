"""Tokenizers of every supported kind, trained here in a moment, each in the shape of the model it is named for."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as RustTokenizer

from meap.config import TokenizerConfig
from meap.synthetic import generate_document
from meap.tokenizer import Tokenizer, load_tokenizer

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN = _LLAMA3.replace("{1,3}", "")
_SPECIAL = ["<unk>", "<s>", "</s>"]
_FOREIGN = (
    "Größe naïve Привет мир γειά 你好世界 こんにちは 안녕 שלום مرحبا नमस्ते 👍🏽 ½ é e\u0301 don't 12345 x=y+1; ..."
)


def _texts() -> list[str]:
    return [generate_document(0, index).text for index in range(60)] + [_FOREIGN] * 8


def _byte_level(split: str | None, *, nfc: bool = False, ignore_merges: bool = False) -> RustTokenizer:
    tokenizer = RustTokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.normalizer = normalizers.NFC() if nfc else None
    tokenizer.pre_tokenizer = (
        pre_tokenizers.ByteLevel(add_prefix_space=False)
        if split is None
        else pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(split), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def _sentencepiece(*, across_spaces: bool = False, metaspace: str | None = None) -> RustTokenizer:
    """Llama-2's shape; with `across_spaces` there are merges over the borders of words, which no cut may break."""
    tokenizer = RustTokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if across_spaces:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\u2581]+\u2581[^\u2581]+"), "isolated")
        texts = [text.replace(" ", "\u2581") for text in _texts()]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        texts = _texts()
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=[*_SPECIAL, *byte_tokens], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    definition = json.loads(tokenizer.to_str())
    definition["added_tokens"] = [each for each in definition["added_tokens"] if each["content"] in _SPECIAL]
    definition["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        ],
    }
    definition["pre_tokenizer"] = None
    if metaspace is not None:
        definition["normalizer"] = None
        definition["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": metaspace,
            "split": False,
        }
    return RustTokenizer.from_str(json.dumps(definition))


KINDS: dict[str, Callable[[], RustTokenizer]] = {
    "gpt2": lambda: _byte_level(None),
    "llama3": lambda: _byte_level(_LLAMA3, ignore_merges=True),
    "qwen2.5": lambda: _byte_level(_QWEN, nfc=True),
    "llama2": _sentencepiece,
    "across_spaces": lambda: _sentencepiece(across_spaces=True),
    "metaspace_first": lambda: _sentencepiece(metaspace="first"),
    "metaspace_always": lambda: _sentencepiece(metaspace="always"),
    "metaspace_never": lambda: _sentencepiece(metaspace="never"),
}


@pytest.fixture(scope="session")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tokenizer]:
    """The tokenizer of a kind, made once."""
    made: dict[str, Tokenizer] = {}

    def load(kind: str) -> Tokenizer:
        if kind not in made:
            folder: Path = tmp_path_factory.mktemp(kind.replace(".", "_"))
            KINDS[kind]().save(str(folder / "tokenizer.json"))
            made[kind] = load_tokenizer(TokenizerConfig(name=str(folder), bos_token="<s>", eos_token="</s>"))
        return made[kind]

    return load
