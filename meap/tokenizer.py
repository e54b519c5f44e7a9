"""The tokenizer of the whole flow: loads it, adds the mask token, encodes documents, saves it with every artefact.

Where rows are read right to left, training adds a second token, `DIRECTION_TOKEN`, behind the mask token: prepared data
need not know it. It decides no id of any text, and so no fingerprint.

The mask token is an additional special token at the end of the vocabulary (Llama-2's 32,000 pieces become 32,001), and
its id is always looked up. Raw text is encoded by the vocabulary *without* it, so that a document which happens to
contain the characters ``[MASK]`` can never put the mask id into the training data; every other id is exactly what
``tokenizers.Tokenizer.encode`` gives.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken
from tokenizers import Tokenizer as RustTokenizer

from meap.config.data import TokenizerConfig
from meap.config.prep import SEPARATORS, TextTokenizerConfig
from meap.errors import ConfigError, DataError, MismatchError, first_line
from meap.json_text import MOST_BYTES, parse_json
from meap.manifest import TokenizerRecord
from meap.places.whole import temporary_folder, write_whole

__all__ = [
    "DIRECTION_TOKEN",
    "TOKENIZER_FILES",
    "Tokenizer",
    "load_tokenizer",
    "model_context",
    "restore_tokenizer",
    "tokenizer_files",
]

AUTO, BOS_EOS, EOS = SEPARATORS
DIRECTION_TOKEN = "[REVERSED]"  # noqa: S105 (not a secret)
"""Begins a row that is read right to left."""
_TOKENIZER_FILE = "tokenizer.json"
_CONFIG_FILE = "tokenizer_config.json"
_SPECIAL_TOKENS_FILE = "special_tokens_map.json"
_CHAT_TEMPLATE_FILE = "chat_template.jinja"
_MODEL_FILE = "config.json"
TOKENIZER_FILES = (_TOKENIZER_FILE, _CONFIG_FILE, _SPECIAL_TOKENS_FILE)
"""What `Tokenizer.save` writes."""

_MAX_IDS = 1 << 24
"""Far more than the largest vocabulary in use."""
_NONCHARACTER = "\ufdd0"
"""Unicode reserves it for use inside programs."""
_FINGERPRINTED = ("added_tokens", "model", "normalizer", "pre_tokenizer")


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer whose special ids are known and whose vocabulary holds the mask token."""

    name: str
    """Folder or hub name that it was loaded from."""
    full: RustTokenizer = field(repr=False)
    """The vocabulary with the mask token: for decoding, export and inference."""
    plain: RustTokenizer = field(repr=False)
    """The vocabulary without the mask token and the direction token: for encoding raw text."""
    bos_token: str | None
    """None for a tokenizer that has none, such as Qwen's or T5's."""
    eos_token: str
    mask_token: str
    source_config: dict[str, Any] = field(repr=False)
    """The tokenizer_config.json it came with, or an empty dictionary."""
    is_mask_new: bool = False
    """Whether the mask token was added here, so that no model was trained with it yet."""
    separator: str = BOS_EOS
    """What packing puts around each document, `BOS_EOS` or `EOS`."""

    @cached_property
    def bos_id(self) -> int | None:
        """Id of BOS."""
        return None if self.bos_token is None else _id_of(self.full, self.bos_token)

    @cached_property
    def eos_id(self) -> int:
        """Id of EOS."""
        return _id_of(self.full, self.eos_token)

    @cached_property
    def plain_definition(self) -> str:
        """The tokenizer.json of `plain`; one string, of which a job's steps are pickled with one copy."""
        return self.plain.to_str()

    @property
    def record(self) -> TokenizerRecord:
        """What manifests and checkpoints say of it."""
        return TokenizerRecord(
            name=self.name,
            fingerprint=self.fingerprint,
            vocab_size=self.vocab_size,
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            mask_id=self.mask_id,
            separator=self.separator,
            direction_id=self.direction_id,
        )

    @cached_property
    def mask_id(self) -> int:
        """Id of the mask token."""
        return _id_of(self.full, self.mask_token)

    @cached_property
    def direction_id(self) -> int | None:
        """Id of the direction token; None where nothing has added it."""
        return self.full.token_to_id(DIRECTION_TOKEN)

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, the mask token's included (not padded): one more than the largest id."""
        return max(self.full.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def plain_vocab_size(self) -> int:
        """Number of ids without the mask token, unless the model's own vocabulary contains it, and the direction."""
        return max(self.plain.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that are no ordinary token: special tokens, that of unknown text, and ids without a token; ascending."""
        ids = self.full.get_vocab(with_added_tokens=True)
        special = {number for number, token in self.full.get_added_tokens_decoder().items() if token.special}
        named = (self.bos_token, self.eos_token, self.mask_token, getattr(self.full.model, "unk_token", None))
        special |= {ids[token] for token in named if token in ids}
        return tuple(sorted(special | {*range(self.vocab_size)} - {*ids.values()}))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides ids: equal fingerprints mean equal encodings."""
        definition = parse_json(self.full.to_str())
        decisive = {key: definition.get(key) for key in _FINGERPRINTED}
        decisive["added_tokens"] = [each for each in definition["added_tokens"] if each["content"] != DIRECTION_TOKEN]
        decisive["special"] = {"bos": self.bos_id, "eos": self.eos_id, "mask": self.mask_id}
        return "sha256:" + hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Ids of each text, without BOS and EOS; exactly those of ``tokenizers.Tokenizer.encode``."""
        encodings = self.plain.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def encode(self, text: str) -> list[int]:
        """Ids of one text, without BOS and EOS."""
        return self.plain.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of `ids`."""
        return self.full.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def save(self, folder: Path, *, with_mask: bool = True) -> None:
        """Write the files that `load_tokenizer` and transformers' ``AutoTokenizer`` read, each atomically.

        Args:
            folder: Folder to write, created if needed.
            with_mask: Whether the vocabulary has the mask token.
        """
        for name, content in tokenizer_files(self, with_mask=with_mask).items():
            write_whole(folder / name, content)

    def without_bos(self) -> Tokenizer:
        """The same for documents without BOS, which a model trained on them has never seen."""
        return dataclasses.replace(self, bos_token=None, separator=EOS)

    def with_direction(self) -> Tokenizer:
        """The same with the direction token, which is added where it is missing.

        Raises:
            ConfigError: Text may hold it.
        """
        if self.plain.token_to_id(DIRECTION_TOKEN) is not None:
            raise ConfigError(
                f"tokenizer {self.name!r} has {DIRECTION_TOKEN!r} among its own tokens, so that text may hold what "
                "marks rows read right to left: set masking.reversed_ratio=0, or take another tokenizer"
            )
        if self.direction_id is not None:
            return self
        full = RustTokenizer.from_str(self.full.to_str())
        full.add_special_tokens([AddedToken(DIRECTION_TOKEN, special=True, normalized=False)])
        return dataclasses.replace(self, full=full)

    def require_fingerprint(self, expected: str, *, owner: str) -> None:
        """Raise `MismatchError` unless this is the tokenizer whose fingerprint `owner` recorded."""
        if self.fingerprint != expected:
            raise MismatchError(
                f"tokenizer {self.name!r} is not the one {owner} was made with "
                f"(fingerprint {self.fingerprint[:19]}..., recorded {expected[:19]}...): "
                "leave tokenizer.name and its special tokens unset to use the one stored with the data, or prepare the "
                "data again"
            )


def tokenizer_files(tokenizer: Tokenizer, *, with_mask: bool = True) -> dict[str, bytes]:
    """Content of the files of a tokenizer folder, by name; see `Tokenizer.save`."""
    special = {"eos_token": tokenizer.eos_token}
    special |= {"bos_token": tokenizer.bos_token} if tokenizer.bos_token is not None else {}
    special |= {"mask_token": tokenizer.mask_token} if with_mask else {}
    left_out = {"added_tokens_decoder", "bos_token", "mask_token"}
    inherited = {key: value for key, value in tokenizer.source_config.items() if key not in left_out}
    # The generic class reads tokenizer.json unchanged; a model's own class may rebuild the pre-tokenizer instead.
    config = inherited | {"tokenizer_class": "PreTrainedTokenizerFast"} | special
    contents = {
        _TOKENIZER_FILE: (tokenizer.full if with_mask else tokenizer.plain).to_str(),
        _SPECIAL_TOKENS_FILE: json.dumps(special, indent=2),
        _CONFIG_FILE: json.dumps(config, indent=2),
    }
    return {name: content.encode() for name, content in contents.items()}


def restore_tokenizer(contents: Mapping[str, bytes], config: TokenizerConfig, *, name: str) -> Tokenizer:
    """Load a tokenizer from the contents of its files, as `tokenizer_files` returned them.

    Args:
        contents: File contents by name.
        config: The special tokens; its name is not read.
        name: Name to give it: the one that it was first loaded from.

    Raises:
        DataError: The contents are not those of a tokenizer.
    """
    with temporary_folder("meap-tokenizer-") as folder:
        for file, content in contents.items():
            (folder / file).write_bytes(content)
        return _read_tokenizer(folder, dataclasses.replace(config, name=name))


def load_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Load a tokenizer by folder or hub name and make sure that it has EOS and the mask token; it may lack BOS.

    Args:
        config: `name` is a local folder holding tokenizer.json, or a repository on the Hugging Face hub.

    Raises:
        ConfigError: No name, or EOS is not defined, or a special token that is named is not in the vocabulary.
        DataError: The files do not exist or cannot be read.
    """
    if config.name is None:
        raise ConfigError("tokenizer.name is not set: give a local folder with a tokenizer.json, or a hub name")
    return _read_tokenizer(_folder_of(config.name), config)


def _read_tokenizer(folder: Path, config: TokenizerConfig) -> Tokenizer:
    """Read a folder; its messages call the tokenizer by the name in `config`."""
    assert config.name is not None
    tokenizer_file = folder / _TOKENIZER_FILE
    if not tokenizer_file.is_file():
        raise DataError(f"tokenizer folder {folder} holds no {_TOKENIZER_FILE}: export it with save_pretrained first")
    text = _read(tokenizer_file)
    source_config = _read_json(folder / _SPECIAL_TOKENS_FILE) | _read_json(folder / _CONFIG_FILE)
    if (chat_template := folder / _CHAT_TEMPLATE_FILE).is_file():
        source_config |= {"chat_template": _read(chat_template)}
    try:
        definition = cast("dict[str, Any]", parse_json(text))
        # Padding and truncation belong to a caller, not to a vocabulary.
        definition |= {"padding": None, "truncation": None}
        definition |= {"added_tokens": _all_added_tokens(definition, source_config, config)}
        full = RustTokenizer.from_str(json.dumps(definition))
        without = _without_token(_without_token(definition, DIRECTION_TOKEN), config.mask_token)
        plain = RustTokenizer.from_str(json.dumps(without))
        largest = max(full.get_vocab(with_added_tokens=True).values())
    except BaseException as error:
        if (
            not isinstance(error, Exception) and type(error).__name__ != "PanicException"
        ):  # what a panic of Rust becomes
            raise
        raise DataError(f"{tokenizer_file} is not a readable tokenizer: {first_line(error)}") from error
    if largest >= _MAX_IDS:
        raise DataError(
            f"{tokenizer_file} has an id of {largest:,}, and {_MAX_IDS:,} ids are the most, since a model has a row "
            "for each: save the tokenizer again from where it comes"
        )

    is_mask_new = full.token_to_id(config.mask_token) is None
    full.add_special_tokens([AddedToken(config.mask_token, special=True, normalized=False)])
    bos_token = _special_token("bos_token", config.bos_token, source_config, full, config.name)
    eos_token = _special_token("eos_token", config.eos_token, source_config, full, config.name)
    if eos_token is None:
        raise ConfigError(
            f"tokenizer {config.name!r} defines no eos_token, which ends each document: set tokenizer.eos_token to one "
            "of its special tokens, for example '<|endoftext|>'"
        )
    asked = config.separator if isinstance(config, TextTokenizerConfig) else AUTO
    if asked == BOS_EOS and bos_token is None:
        raise ConfigError(
            f"tokenizer.separator={BOS_EOS}: tokenizer {config.name!r} defines no bos_token; leave it {AUTO!r} (EOS "
            "alone then separates documents), or set tokenizer.bos_token"
        )
    loaded = Tokenizer(
        name=config.name,
        full=full,
        plain=plain,
        bos_token=bos_token,
        eos_token=eos_token,
        mask_token=config.mask_token,
        source_config=source_config,
        is_mask_new=is_mask_new,
        separator=asked if asked != AUTO else EOS if bos_token in (None, eos_token) else BOS_EOS,
    )
    return loaded.without_bos() if loaded.separator == EOS and bos_token != eos_token else loaded


def model_context(name: str) -> int | None:
    """Positions that the model reads whose folder or hub name this is; None where its config.json is not beside.

    Args:
        name: `tokenizer.name`.

    Raises:
        DataError: The files do not exist or cannot be read.
    """
    described = _read_json(_folder_of(name) / _MODEL_FILE)
    described = described.get("text_config") or described  # of a model that also sees
    limits = [described.get("max_position_embeddings")]
    if described.get("use_sliding_window", True):
        limits.append(described.get("sliding_window"))
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


def _folder_of(name: str) -> Path:
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise DataError(f"tokenizer.name={name}: this folder does not exist; check the path")
    return _download(name)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[*TOKENIZER_FILES, _CHAT_TEMPLATE_FILE, _MODEL_FILE]))
    except Exception as error:
        raise DataError(
            f"tokenizer.name={name!r} is neither a local folder nor available on the Hugging Face hub "
            f"({type(error).__name__}: {first_line(error)}); "
            "for a gated repository log in with `hf auth login`"
        ) from error


def _special_token(
    role: str, asked: str | None, source_config: dict[str, Any], vocabulary: RustTokenizer, name: str
) -> str | None:
    token = asked or _content(source_config.get(role))
    if not token:
        return None
    if vocabulary.token_to_id(token) is None:
        raise ConfigError(f"tokenizer.{role}={token!r} is not in the vocabulary of tokenizer {name!r}")
    return cast("str", token)


def _all_added_tokens(
    definition: dict[str, Any], source_config: dict[str, Any], config: TokenizerConfig
) -> list[dict[str, Any]]:
    """The tokens that are found in text: those of tokenizer.json, and those that transformers adds as it reads them.

    Some tokenizer.json have special tokens as words of the vocabulary alone, which no text would be read as; that they
    are special stands in tokenizer_config.json.
    """
    stored = cast("list[dict[str, Any]]", definition["added_tokens"])
    vocab = definition["model"].get("vocab", {})
    ids: dict[str, int] = (
        vocab if isinstance(vocab, dict) else {each[0]: number for number, each in enumerate(cast("list[Any]", vocab))}
    )
    options = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    more = [
        options | token | {"id": int(number)}
        for number, token in source_config.get("added_tokens_decoder", {}).items()
        if ids.get(token["content"], int(number)) == int(number)
    ]
    lists = [source_config.get(name) for name in ("additional_special_tokens", "extra_special_tokens")]
    named = [config.bos_token, config.eos_token, source_config.get("bos_token"), source_config.get("eos_token")]
    named += [token for each in lists if isinstance(each, list) for token in cast("list[Any]", each)]
    more += [options | {"id": ids[token], "content": token} for token in map(_content, named) if token in ids]
    known = {each["content"]: each for each in [*more[::-1], *stored]}
    return sorted(known.values(), key=lambda each: each["id"])


def _content(token: Any) -> str | None:
    """Text of a special token, which configurations give alone or with its options."""
    return cast("dict[str, str]", token)["content"] if isinstance(token, dict) else token


def _without_token(definition: dict[str, Any], token: str) -> dict[str, Any]:
    """`definition` without an *added* token; a token of the model's own vocabulary stays."""
    added = definition["added_tokens"]
    if token in definition["model"].get("vocab", {}) or token not in [each["content"] for each in added]:
        return definition
    if added[-1]["content"] == token:
        return definition | {"added_tokens": added[:-1]}
    # Ids of later tokens are counted, so that its place is kept by one which no text spells.
    renamed = [each | {"content": f"{_NONCHARACTER}{token}"} if each["content"] == token else each for each in added]
    return definition | {"added_tokens": renamed}


def _id_of(vocabulary: RustTokenizer, token: str) -> int:
    token_id = vocabulary.token_to_id(token)
    assert token_id is not None
    return token_id


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = parse_json(_read(path))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not a JSON object: save the tokenizer again")
    return cast("dict[str, Any]", content)


def _read(path: Path) -> str:
    """The text of a tokenizer's file, unless it is far larger than any tokenizer's."""
    if (size := path.stat().st_size) > MOST_BYTES:
        raise DataError(
            f"{path} has {size:,} bytes, and {MOST_BYTES:,} are the most that a tokenizer's file may have: check "
            "that it is one"
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
