import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as RustTokenizer

from meap.config import TextTokenizerConfig, TokenizerConfig
from meap.errors import ConfigError, DataError, MismatchError
from meap.tokenizer import (
    DIRECTION_TOKEN,
    TOKENIZER_FILES,
    Tokenizer,
    load_tokenizer,
    restore_tokenizer,
    tokenizer_files,
)


def test_the_mask_token_is_added_at_the_end_and_looked_up(tokenizer: Tokenizer, tokenizer_dir: Path):
    original = RustTokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    assert tokenizer.mask_id == original.get_vocab_size()
    assert tokenizer.vocab_size == original.get_vocab_size() + 1
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)


@given(st.lists(st.text(), max_size=5))
@settings(max_examples=200, deadline=None)
def test_ids_are_those_of_the_original_tokenizer(tokenizer: Tokenizer, tokenizer_dir: Path, texts: list[str]):
    original = RustTokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == [
        original.encode(text, add_special_tokens=False).ids for text in texts
    ]


def test_text_that_looks_like_the_mask_token_never_becomes_it(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path)
    for each in (tokenizer, load_tokenizer(TokenizerConfig(name=str(tmp_path)))):
        assert each.mask_id not in each.encode("a [MASK] in the text")
        assert each.decode(each.encode("a [MASK] in the text")) == "a [MASK] in the text"


def test_what_is_saved_loads_as_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(TOKENIZER_FILES)
    loaded = load_tokenizer(TokenizerConfig(name=str(tmp_path)))
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.mask_id == tokenizer.mask_id
    assert loaded.encode("The harbour") == tokenizer.encode("The harbour")


def test_transformers_reads_what_is_saved(tokenizer: Tokenizer, tmp_path: Path):
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.mask_token_id == tokenizer.mask_id
    assert (loaded.bos_token_id, loaded.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert loaded("The harbour", add_special_tokens=False).input_ids == tokenizer.encode("The harbour")


@pytest.mark.parametrize("known_as", ["word", "decoder", "listed", "added"])
def test_special_tokens_are_found_in_text_as_transformers_finds_them(tmp_path: Path, known_as: str):
    """Some tokenizer.json have them as words of the vocabulary, or not at all; the mask token may stand before them."""
    from transformers import AutoTokenizer

    tokens = ["[MASK]", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    full = RustTokenizer(models.BPE({"a": 0, "b": 1, "<": 2, "|": 3}, []))
    full.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in tokens])
    definition = json.loads(full.to_str())
    added, kept = definition["added_tokens"], [] if known_as != "added" else definition["added_tokens"]
    config: dict[str, object] = {"bos_token": tokens[1], "eos_token": tokens[2], "mask_token": tokens[0]}
    if known_as in ("word", "listed"):
        definition["model"]["vocab"] |= {each["content"]: each["id"] for each in added}
    if known_as == "decoder":
        config["added_tokens_decoder"] = {
            str(each["id"]): {name: value for name, value in each.items() if name != "id"} for each in added
        }
    elif known_as in ("word", "listed"):
        config["additional_special_tokens"] = tokens[3:]
    config |= {"extra_special_tokens": config.pop("additional_special_tokens")} if known_as == "listed" else {}
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition | {"added_tokens": kept}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load_tokenizer(TokenizerConfig(name=str(tmp_path)))
    text = "<|begin_of_text|>ab<|eot_id|>a<|end_of_text|>"
    assert loaded.encode(text) == [5, 0, 1, 7, 0, 6]
    assert loaded.encode(text) == AutoTokenizer.from_pretrained(tmp_path).encode(text, add_special_tokens=False)
    assert loaded.mask_id not in loaded.encode("a[MASK]b")
    loaded.save(tmp_path / "saved")
    again = load_tokenizer(TokenizerConfig(name=str(tmp_path / "saved")))
    assert (again.fingerprint, again.encode(text)) == (loaded.fingerprint, loaded.encode(text))


def test_llama2_gets_32001_ids(shared_data: Path):
    llama = load_tokenizer(TokenizerConfig(name=str(shared_data / "tokenizers/llama2")))
    assert (llama.bos_id, llama.eos_id, llama.mask_id, llama.vocab_size) == (1, 2, 32_000, 32_001)


def test_special_ids_are_no_ordinary_tokens(tokenizer: Tokenizer, shared_data: Path):
    assert tokenizer.special_ids == (0, 1, tokenizer.mask_id)
    llama2 = load_tokenizer(TokenizerConfig(name=str(shared_data / "tokenizers" / "llama2")))
    assert llama2.special_ids == (0, 1, 2, 32_000)


def test_the_direction_token_stands_behind_the_mask_token_and_changes_no_text(tokenizer: Tokenizer, tmp_path: Path):
    both = tokenizer.with_direction()
    assert (tokenizer.direction_id, both.direction_id) == (None, tokenizer.vocab_size)
    assert (both.vocab_size, both.plain_vocab_size) == (tokenizer.vocab_size + 1, tokenizer.plain_vocab_size)
    assert both.fingerprint == tokenizer.fingerprint
    assert both.special_ids == (*tokenizer.special_ids, both.direction_id)
    both.save(tmp_path)
    loaded = load_tokenizer(TokenizerConfig(name=str(tmp_path)))
    for each in (both, loaded, loaded.with_direction()):
        assert (each.record.direction_id, each.mask_id) == (both.direction_id, tokenizer.mask_id)
        assert each.fingerprint == tokenizer.fingerprint
        text = f"a {tokenizer.mask_token} and {DIRECTION_TOKEN} here"
        assert each.encode(text) == tokenizer.encode(text)
        assert not {each.mask_id, each.direction_id} & {*each.encode(text)}


def test_a_vocabulary_whose_text_may_hold_the_direction_token_is_refused(tokenizer_dir: Path, tmp_path: Path):
    definition = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    definition["model"]["vocab"][DIRECTION_TOKEN] = max(definition["model"]["vocab"].values()) + 1
    for name in ("tokenizer_config.json",):
        (tmp_path / name).write_text((tokenizer_dir / name).read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(ConfigError, match="among its own tokens, so that text may hold what marks rows"):
        load_tokenizer(TokenizerConfig(name=str(tmp_path))).with_direction()


def test_the_fingerprint_tells_tokenizers_apart(tokenizer: Tokenizer, tokenizer_dir: Path):
    swapped = load_tokenizer(TokenizerConfig(name=str(tokenizer_dir), bos_token="</s>"))
    assert swapped.fingerprint != tokenizer.fingerprint
    with pytest.raises(MismatchError, match="is not the one data/x was made with .* leave tokenizer.name and"):
        swapped.require_fingerprint(tokenizer.fingerprint, owner="data/x")


def test_a_restored_tokenizer_is_called_by_its_name_in_messages_too(tokenizer: Tokenizer):
    config = TokenizerConfig(eos_token="nowhere")
    with pytest.raises(ConfigError, match=r"eos_token='nowhere' is not in the vocabulary of tokenizer 'data/x'"):
        restore_tokenizer(tokenizer_files(tokenizer), config, name="data/x")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"name": None}, ConfigError, "tokenizer.name is not set: give a local folder"),
        ({"name": "/no/such/folder"}, DataError, "tokenizer.name=/no/such/folder: this folder does not exist"),
        ({"bos_token": "<nope>"}, ConfigError, "tokenizer.bos_token='<nope>' is not in the vocabulary"),
    ],
)
def test_bad_configuration_gets_one_clear_error(tokenizer_dir: Path, changed, error, message):
    config = dataclasses.replace(TokenizerConfig(name=str(tokenizer_dir)), **changed)
    with pytest.raises(error, match=message):
        load_tokenizer(config)


def test_a_folder_without_tokenizer_json_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"holds no tokenizer\.json"):
        load_tokenizer(TokenizerConfig(name=str(tmp_path)))


def test_a_damaged_tokenizer_json_is_refused(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="is not a readable tokenizer"):
        load_tokenizer(TokenizerConfig(name=str(tmp_path)))


def test_a_tokenizer_may_lack_bos_but_not_eos(tokenizer_dir: Path, tmp_path: Path):
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_dir / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    without = load_tokenizer(TokenizerConfig(name=str(tmp_path)))
    assert (without.bos_id, without.eos_id, without.record.borders) == (None, 1, (1,))
    without.save(tmp_path / "saved")
    again = load_tokenizer(TokenizerConfig(name=str(tmp_path / "saved")))
    assert (again.bos_id, again.fingerprint) == (None, without.fingerprint)
    assert load_tokenizer(TokenizerConfig(name=str(tmp_path), bos_token="<s>")).record.borders == (0, 1)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    with pytest.raises(ConfigError, match=r"defines no eos_token, which ends each document: set tokenizer\.eos_token"):
        load_tokenizer(TokenizerConfig(name=str(tmp_path)))


@pytest.mark.parametrize(
    ("bos", "separator", "borders"),
    [
        ("<s>", "auto", (0, 1)),
        ("<s>", "bos_eos", (0, 1)),
        ("<s>", "eos", (1,)),
        ("</s>", "auto", (1,)),
        ("</s>", "bos_eos", (1, 1)),
        (None, "auto", (1,)),
        (None, "eos", (1,)),
    ],
)
def test_what_separates_documents(tokenizer_dir: Path, tmp_path: Path, bos, separator, borders):
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_dir / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": bos, "eos_token": "</s>"}))
    config = TextTokenizerConfig(name=str(tmp_path), separator=separator)
    assert load_tokenizer(config).record.borders == borders


def test_a_separator_that_the_tokenizer_lacks_is_refused(tokenizer_dir: Path, tmp_path: Path):
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_dir / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    with pytest.raises(ConfigError, match=r"tokenizer.separator=bos_eos: .* defines no bos_token; leave it 'auto'"):
        load_tokenizer(TextTokenizerConfig(name=str(tmp_path), separator="bos_eos"))
    with pytest.raises(ConfigError, match="tokenizer.separator='both' is not known"):
        TextTokenizerConfig(separator="both")


def test_an_unreachable_hub_name_is_explained(monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    def offline(*_args, **_kwargs):
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(DataError, match="neither a local folder nor available on the Hugging Face hub"):
        load_tokenizer(TokenizerConfig(name="some/model"))


@pytest.mark.parametrize("content", ["[]", "{", "1", "[" * 100_000])
def test_a_tokenizer_config_that_is_none_is_refused(tokenizer_dir: Path, tmp_path: Path, content: str):
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_dir / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(DataError, match=r"tokenizer_config\.json (is not valid JSON|holds a)"):
        load_tokenizer(TokenizerConfig(name=str(tmp_path)))


def test_a_tokenizer_json_of_absurd_size_is_refused(tokenizer_dir: Path, tmp_path: Path):
    file = tmp_path / "tokenizer.json"
    definition = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    definition["model"]["vocab"]["far away"] = 4_000_000_000
    file.write_text(json.dumps(definition))
    with pytest.raises(DataError, match=r"has an id of 4,000,000,000, and 16,777,216 ids are the most"):
        load_tokenizer(TokenizerConfig(name=str(tmp_path)))
    with file.open("wb") as huge:
        huge.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(DataError, match=r"has 1,099,511,627,776 bytes, and 268,435,456 are the most"):
        load_tokenizer(TokenizerConfig(name=str(tmp_path)))
