"""What preparation says of the text that its tokenizer cannot hold, and of documents that end in no row."""

import json
import re

import numpy as np
import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

from meap.cli import main
from meap.config import DataConfig, TokenizerConfig
from meap.data.shards import open_shards, open_tokenizer
from meap.errors import DataError
from meap.manifest import Manifest


def manifest_of(folder, split="train"):
    return Manifest.from_json((folder / split / "manifest.json").read_bytes(), origin=str(folder))


@pytest.fixture
def without_bos(tokenizer_dir, tmp_path):
    """The tokenizer in the state of Qwen's: it has no BOS."""
    folder = tmp_path / "without_bos"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((tokenizer_dir / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": None, "eos_token": "</s>"}))
    return folder


@pytest.mark.parametrize("state", ["no BOS", "BOS is EOS", "separator=eos", "BOS and EOS"])
def test_documents_are_separated_once(
    prepare, tmp_path, tokenizer_dir, without_bos, make_texts, write_lines, read_rows, state
):
    texts = make_texts(40)
    write_lines(tmp_path / "in.jsonl", texts)
    keys = {
        "no BOS": [f"tokenizer.name={without_bos}"],
        "BOS is EOS": [f"tokenizer.name={tokenizer_dir}", "tokenizer.bos_token=</s>"],
        "separator=eos": [f"tokenizer.name={tokenizer_dir}", "tokenizer.separator=eos"],
        "BOS and EOS": [f"tokenizer.name={tokenizer_dir}"],
    }[state]
    prepare("source=in.jsonl", "remote=out", "seq_len=15", "heldout_ratio=0", *keys)
    vocabulary = RustTokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    before = [0] if state == "BOS and EOS" else []
    expected = np.concatenate([[*before, *vocabulary.encode(text).ids, 1] for text in texts])
    rows, manifest = read_rows(tmp_path / "out" / "train"), manifest_of(tmp_path / "out")
    assert rows.reshape(-1).tolist() == expected[: rows.size].tolist()
    assert manifest.tokens == len(expected) == rows.size + manifest.dropped_tail_tokens
    assert manifest.dropped_tail_documents == np.count_nonzero(expected[rows.size :] == 1)
    assert manifest.tokenizer.bos_id == {"BOS is EOS": 1, "BOS and EOS": 0}.get(state)
    # Prompts begin as documents did, also with the tokenizer that training and export read.
    shards = open_shards(DataConfig(remote="out", seq_len=15), "train")
    name = next(key.partition("=")[2] for key in keys if key.startswith("tokenizer.name="))
    for config in (TokenizerConfig(), TokenizerConfig(name=name, bos_token="</s>" if state == "BOS is EOS" else None)):
        assert open_tokenizer(config, shards).bos_id == manifest.tokenizer.bos_id
    assert main(["verify", "remote=out"]) == 0
    assert main(["stats", "remote=out", "json=stats.json"]) == 0
    lengths = json.loads((tmp_path / "stats.json").read_text())["lengths"]
    assert sum(lengths.values()) == manifest.documents == 40
    assert main(["inspect", "remote=out", "html=page.html"]) == 0
    assert ("no BOS" in (tmp_path / "page.html").read_text()) == (manifest.tokenizer.bos_id is None)


def test_special_tokens_are_plain_text_and_counted(prepare, tmp_path, tokenizer_dir, write_lines, read_rows, capsys):
    write_lines(tmp_path / "in.jsonl", ["<s>strike</s>", "nothing", "</s>"])
    common = ("source=in.jsonl", f"tokenizer.name={tokenizer_dir}", "seq_len=3", "heldout_ratio=0")
    prepare(*common, "remote=text")
    said = "2 documents spell special tokens (3 times), read as {} (tokenizer.special_tokens_in_text={})"
    assert said.format("plain characters", "text") in capsys.readouterr().out
    rows = read_rows(tmp_path / "text" / "train")
    assert np.count_nonzero(rows == 1) <= 3
    assert manifest_of(tmp_path / "text").counts["special_tokens_in_text"] == 3
    prepare(*common, "remote=token", "tokenizer.special_tokens_in_text=token")
    assert said.format("these tokens", "token") in capsys.readouterr().out
    with pytest.raises(DataError, match=r"in.jsonl:1 spells '<s>', a special token of the tokenizer: remove it"):
        prepare(*common, "remote=refuse", "tokenizer.special_tokens_in_text=refuse")


def test_documents_that_were_held_out_and_fill_no_row_are_a_warning(
    prepare, tmp_path, tokenizer_dir, make_texts, write_lines, capsys
):
    """They were in no split, and in no figure."""
    write_lines(tmp_path / "in.jsonl", make_texts(200))
    common = ("source=in.jsonl", f"tokenizer.name={tokenizer_dir}", "seq_len=1023")
    prepare(*common, "remote=few", "heldout_ratio=0.02")
    out = capsys.readouterr().out
    told = re.search(
        r"warning: there is no validation split: heldout_ratio=0.02 held out (\d+) documents, whose ([\d,]+) tokens "
        r"fill no row of 1,024; raise heldout_ratio to (0\.\d+), or choose a smaller seq_len, in another folder",
        out,
    )
    assert told, out
    assert int(told[1]) + manifest_of(tmp_path / "few").documents == 200
    prepare(*common, "remote=enough", f"heldout_ratio={told[3]}")
    assert "there is no validation split" not in capsys.readouterr().out
    prepare(*common, "remote=none", "heldout_ratio=0")
    assert "there is no validation split" not in capsys.readouterr().out


def test_a_tail_that_matters_is_a_warning(prepare, tmp_path, tokenizer_dir, make_texts, write_lines, capsys):
    for number in range(4):
        write_lines(tmp_path / "in" / f"{number}.jsonl", make_texts(12))
    common = ("source=in", f"tokenizer.name={tokenizer_dir}", "heldout_ratio=0")
    prepare(*common, "remote=long", "seq_len=255", "tasks=4")
    out, manifest = capsys.readouterr().out, manifest_of(tmp_path / "long")
    share = manifest.dropped_tail_tokens / manifest.tokens
    assert share > 0.01
    assert f"{manifest.dropped_tail_tokens:,} tokens ({share:.1%}) that filled no row, where " in out
    assert f"{manifest.dropped_tail_documents} of 48 documents end" in out
    assert f"warning: {share:.1%} of the tokens of train filled no row: each of 4 tasks loses less than a row" in out
    prepare(*common, "remote=long", "seq_len=255", "tasks=4")
    again = capsys.readouterr().out
    assert re.search(r"already complete: .*that filled no row, where", again)
    assert "warning: " in again
    prepare(*common, "remote=short", "seq_len=3", "tasks=1")
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("lacks", ["é", " "])
def test_characters_that_vanish_are_told(prepare, tmp_path, write_lines, lacks, capsys):
    """A vocabulary without unknown token and bytes says nothing of what it lacks."""
    words = {character: number for number, character in enumerate(["</s>", *"abcdefghijklmnopqrstuvwxyz"])}
    vocabulary = RustTokenizer(models.BPE(words if lacks == " " else words | {" ": 27}, []))
    vocabulary.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    vocabulary.decoder = decoders.Fuse()
    vocabulary.add_special_tokens(["</s>"])
    vocabulary.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    write_lines(tmp_path / "in.jsonl", ["plain", f"caf{lacks}s", "again"] * 5)
    prepare("source=in.jsonl", "remote=out", f"tokenizer.name={tmp_path}", "seq_len=7", "heldout_ratio=0")
    out = capsys.readouterr().out
    assert "5 of 15 documents that were encoded and decoded as a trial do not come back: the tokenizer loses " in out
    assert f"loses {lacks!r} (U+{ord(lacks):04X}) in 'caf{lacks}s' of " in out
    assert "in.jsonl:2; choose one that can spell this text" in out
