"""Preparation of conversations: every one in exactly one row, every bad record counted, one job per folder."""

import codecs
import dataclasses
import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

from meap.answers import SCORED
from meap.config import DataConfig, SftPrepConfig, TokenizerConfig, load_config
from meap.data import open_shards
from meap.data.sft import require_room_for_copies
from meap.errors import BadInputError, ConfigError, DataError, MismatchError
from meap.manifest import CONVERSATIONS, Manifest
from meap.prep.sft.records import ALL_FIELDS
from meap.prep.sft.report import CUT, describe_packing, warnings_of
from meap.prep.sft.source import check_config
from meap.prep.sft.steps import pack_best_fit
from meap.schema import COPIED
from meap.tokenizer import load_tokenizer, model_context
from tests.prep.plain_streaming import open_plain


def records(count: int, words: int = 6) -> list[dict]:
    return [
        {"instruction": f"Say {number}.", "output": " ".join(["boat"] * (1 + number % words)) + f" {number}"}
        for number in range(count)
    ]


def read_conversations(remote: Path, split: str = "train") -> list[list[tuple[list[int], list[int], bool]]]:
    rows = []
    for row in open_plain(local=str(remote / split), batch_size=1):
        ends = np.cumsum(row["lengths"])
        assert ends[-1] == len(row["tokens"]) == len(row["answer"])
        rows.append(
            [
                (row["tokens"][span].tolist(), (row["answer"][span] & SCORED).tolist(), bool(copied))
                for end, length, copied in zip(ends, row["lengths"], row["copied"], strict=True)
                for span in [slice(end - length, end)]
            ]
        )
    return rows


def read_manifest(remote: Path, split: str = "train") -> Manifest:
    return Manifest.from_json((remote / split / "manifest.json").read_text(), origin="x")


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60))
def test_packing_puts_every_item_in_one_bin_and_fills_no_bin_over(sizes):
    bins = pack_best_fit(sizes, 40)
    assert sorted(number for each in bins for number in each) == list(range(len(sizes)))
    assert all(sum(sizes[number] for number in each) <= 40 for each in bins)
    assert sum(sum(sizes[number] for number in each) <= 20 for each in bins) <= 1  # no two bins could be one
    assert bins == pack_best_fit(sizes, 40)


def test_every_conversation_is_in_exactly_one_row(prepare_sft, tmp_path, tokenizer, capsys):
    (tmp_path / "in.json").write_text(json.dumps(records(50)))
    prepare_sft("source=in.json", "max_length=160", "min_answer_tokens=14")
    rows = read_conversations(tmp_path / "out")
    found = [tokenizer.decode(tokens) for row in rows for tokens, _, _ in row]
    assert sorted(text.split("Response:\n")[1] for text in found) == sorted(
        f"{each['output']}</s>" for each in records(50)
    )
    for row in rows:
        for tokens, answer, is_copied in row:
            assert (
                tokenizer.decode([t for t, a in zip(tokens, answer, strict=True) if a])
                == tokenizer.decode(tokens).split("Response:\n")[1]
            )
            assert is_copied == (sum(answer) - 1 > 14)  # the end of the turn is no word
        assert sum(len(tokens) * (1 + is_copied) for tokens, _, is_copied in row) <= 320
    manifest = read_manifest(tmp_path / "out")
    num_copied = sum(is_copied for row in rows for _, _, is_copied in row)
    assert 0 < num_copied < 50
    assert (manifest.kind, manifest.seq_len, manifest.documents, manifest.rows) == (CONVERSATIONS, 320, 50, len(rows))
    assert manifest.counts["conversations_copied"] == num_copied
    assert manifest.tokens == sum(len(tokens) for row in rows for tokens, _, _ in row)
    assert capsys.readouterr().out.startswith(
        f"complete: 50 conversations, {manifest.tokens:,} tokens, {len(rows)} rows"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["in.json", "in.jsonl", "in.jsonl.gz", "in.jsonl.zst", "in.json.zst", "in.parquet"])
def test_every_kind_of_file_gives_the_same_rows(prepare_sft, tmp_path, name):
    data = records(12)
    lines = "".join(json.dumps(each) + "\n" for each in data).encode()
    if name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(data), tmp_path / name)
    else:
        content = json.dumps(data, indent=1).encode() if ".json" in name and "jsonl" not in name else lines
        content = gzip.compress(content) if name.endswith("gz") else content
        (tmp_path / name).write_bytes(zstandard.compress(content) if name.endswith("zst") else content)
    (tmp_path / "plain.jsonl").write_bytes(lines)
    prepare_sft(f"source={name}", "max_length=128")
    prepare_sft("source=plain.jsonl", "max_length=128", "remote=plain")
    assert read_conversations(tmp_path / "out") == read_conversations(tmp_path / "plain")


def test_cutting_keeps_tokens_and_labels_together_and_is_reported(prepare_sft, tmp_path, capsys):
    data = [
        {"instruction": "Say it.", "output": "boat " * 200},
        {"instruction": "x " * 900, "output": "lost"},
        *records(2),
    ]
    (tmp_path / "in.json").write_text(json.dumps(data))
    prepare_sft("source=in.json", "max_length=4096", "remote=whole", "pack=false")
    prepare_sft("source=in.json", "max_length=180", "pack=false")
    whole, cut = ([row[0] for row in read_conversations(tmp_path / name)] for name in ("whole", "out"))
    kept = [(tokens[:180], answer[:180]) for tokens, answer, _ in whole if any(answer[:180])]
    assert [(tokens, answer) for tokens, answer, _ in cut] == kept
    assert len(cut) == 3
    counts = read_manifest(tmp_path / "out").counts
    assert (counts["conversations_cut"], counts["conversations_dropped"]) == (2, 1)
    cut_tokens = sum(max(0, len(tokens) - 180) for tokens, *_ in whole)
    assert f" 2 cut ({counts['tokens_cut']:,} tokens), 1 dropped; 1.0 conv" in capsys.readouterr().out
    assert counts["tokens_cut"] == cut_tokens


def test_bad_records_are_counted_with_file_and_number(prepare_sft, tmp_path, capsys):
    lines = [json.dumps(each).encode() for each in records(3)]
    lines += [
        b"{broken",
        b'["list"]',
        b'{"instruction": "a", "output": ""}',
        b'{"other": 1}',
        b"",
        b'{"instruction": "</s>", "output": "b"}',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    prepare_sft("source=in.jsonl", "max_length=128", "max_bad_records=5")
    assert "; left out: 5 bad records (" in capsys.readouterr().out
    (task,) = (tmp_path / "out" / ".prep" / "tasks").iterdir()
    kept = json.loads(task.read_text())["kept_bad_lines"]
    assert [(each["file"], each["line"]) for each in kept] == [("in.jsonl", number) for number in (4, 5, 6, 7, 9)]
    assert [each["reason"].split(" (")[0] for each in kept] == [
        "not valid JSON",
        "not a JSON object but list",
        "an answer is empty",
        f"the record has 'other', not those of {ALL_FIELDS}",
        "a user message contains the special token '</s>'",
    ]
    with pytest.raises(
        BadInputError, match=r"in.jsonl:9: .*; that is bad record 5 of task 0 \(64 B\), and max_bad_records=4 are"
    ):
        prepare_sft("source=in.jsonl", "max_length=128", "max_bad_records=4", "remote=other")
    assert not (tmp_path / "other" / "train" / "index.json").exists()


def test_odd_text_is_text_and_odd_records_are_left_out(prepare_sft, tmp_path, tokenizer):
    lines = [
        codecs.BOM_UTF8 + b'{"instruction": "a\\u0000b", "output": "c\\ud83d\\ude00", "id": 1234567890123456789012345}',
        b'{"instruction": "lone \\ud800", "output": "x"}',
        b"null",
        b'{"instruction": "\xff", "output": "x"}',
        b'{"instruction": 12345678901234567890123, "output": "x"}',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    prepare_sft("source=in.jsonl", "max_length=300")
    (((tokens, _, _),),) = read_conversations(tmp_path / "out")
    assert "a\0b\n" in tokenizer.decode(tokens)
    assert tokenizer.decode(tokens).endswith("c\N{GRINNING FACE}</s>")
    assert read_manifest(tmp_path / "out").bad_lines == 4


def test_answers_before_the_first_question_are_left_out_and_counted(prepare_sft, tmp_path, tokenizer, capsys):
    turns = [("gpt", "Hello!"), ("human", "Boat?"), ("gpt", "Yes."), ("human", "Sure?")]
    data = [
        {"conversations": [{"from": role, "value": text} for role, text in turns]},
        {"conversations": [{"role": "system", "content": "Be brief."}, *({"from": r, "value": t} for r, t in turns)]},
        {"conversations": [{"from": "gpt", "value": "Hello!"}], "instruction": "x", "output": "y"},
    ]
    (tmp_path / "in.json").write_text(json.dumps(data))
    prepare_sft("source=in.json", "max_length=300", "pack=false")
    first, second = (tokenizer.decode(row[0][0]) for row in read_conversations(tmp_path / "out"))
    assert first.endswith("request.\n\n### Instruction:\nBoat?\n\n### Response:\nYes.</s>### Instruction:\nSure?\n\n")
    assert second.startswith("<s>Be brief.\n\n### Instruction:\nBoat?")
    assert read_manifest(tmp_path / "out").counts["conversations_without_first_answer"] == 2
    out = capsys.readouterr().out
    assert ", 2 without the answers before their first question; 1.0 conversations per row" in out
    assert "; left out: 1 bad records (" in out


def test_parquet_of_nested_lists_and_of_missing_columns(prepare_sft, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    chat = [{"role": "user", "content": "Boat?"}, {"role": "assistant", "content": "Yes."}]
    data = [{"messages": [{**turn, "tool_calls": None} for turn in chat], "id": 1}, {"messages": None, "id": 2}]
    pq.write_table(pa.Table.from_pylist(data), tmp_path / "in.parquet")
    (tmp_path / "plain.jsonl").write_text(json.dumps({"messages": chat}))
    prepare_sft("source=in.parquet", "max_length=128")
    prepare_sft("source=plain.jsonl", "max_length=128", "remote=plain")
    assert read_conversations(tmp_path / "out") == read_conversations(tmp_path / "plain")
    assert read_manifest(tmp_path / "out").bad_lines == 1

    pq.write_table(pa.table({"instruction": ["a"]}), tmp_path / "short.parquet")
    with pytest.raises(BadInputError, match=r"short.parquet:1: the record has 'instruction', not those of"):
        prepare_sft("source=short.parquet", "remote=short")
    pq.write_table(pa.table({"instruction": ["abc"] * 500, "output": ["d"] * 500}), tmp_path / "hurt.parquet")
    hurt = bytearray((tmp_path / "hurt.parquet").read_bytes())
    hurt[4:24] = b"\xff" * 20
    (tmp_path / "hurt.parquet").write_bytes(hurt)
    with pytest.raises(
        BadInputError,
        match=r"hurt.parquet is damaged after row 0, near byte .*: fetch the file again",
    ):
        prepare_sft("source=hurt.parquet", "remote=hurt")


def test_the_summary_says_how_full_rows_are_and_what_the_paper_s_batch_is(prepare_sft, tmp_path, capsys):
    (tmp_path / "in.json").write_text(json.dumps(records(60)))
    prepare_sft("source=in.json", "max_length=160", "min_answer_tokens=14")
    manifest = read_manifest(tmp_path / "out")
    used = sum(len(tokens) * (1 + copied) for row in read_conversations(tmp_path / "out") for tokens, _, copied in row)
    rows_of_512 = round(512 * manifest.rows / 60)
    assert manifest.counts["positions_used"] == used
    assert manifest.counts["rows_per_512_conversations"] == rows_of_512
    assert (
        f"{60 / manifest.rows:.1f} conversations per row, {used / (manifest.rows * 320):.1%} of 320 positions used; "
        "fewer than the paper's batch of 512 conversations: train with a smaller one"
    ) in capsys.readouterr().out


def test_the_advice_on_batch_and_length_fits_the_data():
    counts = {CUT: 30, COPIED: 1}
    enough = describe_packing(counts, conversations=2_000, rows=1_000, seq_len=320)
    assert enough.endswith("; train.global_batch_size=256 is the paper's batch of 512 conversations")
    for views, remedy in (
        (1, "raise it if the model reads more"),
        (2, "set copies=false, which leaves room for twice as much"),
    ):
        given = {"conversations": 100, "heldout_rows": None, "max_length": 160, "min_answer_tokens": 50}
        (told,) = warnings_of(counts, views=views, **given)
        assert "30 of 100 conversations (30%) are longer than max_length=160 and were cut, so that their last" in told
        assert told.endswith(remedy)


def test_conversations_without_a_copy_are_told_and_no_run_is_called_meap_on_them(prepare_sft, tmp_path, capsys):
    said = [{"instruction": f"Number {number}?", "output": "It is short."} for number in range(20)]
    (tmp_path / "in.json").write_text(json.dumps(said))
    prepare_sft("source=in.json", "max_length=160", "seq_len=320", "min_answer_tokens=40")
    assert re.search(
        r"warning: no conversation has a masked copy, since none of the 20 answers has more than 40 tokens: training "
        r"would mask nothing, and refuses to; lower min_answer_tokens, or set masking\.ratio=0 there",
        capsys.readouterr().out,
    )
    data = DataConfig(remote=str(tmp_path / "out"), seq_len=320)
    with pytest.raises(
        ConfigError, match=r"no conversation of \S+ has a masked copy, .* with a lower min_answer_tokens"
    ):
        require_room_for_copies(open_shards(data, "train", kind=CONVERSATIONS), ratio=0.1)
    require_room_for_copies(open_shards(data, "train", kind=CONVERSATIONS), ratio=0.0)


def test_characters_that_vanish_from_conversations_are_told(prepare_sft, tmp_path, capsys):
    """A vocabulary without unknown token and bytes says nothing of what it lacks."""
    alphabet = ["</s>", *map(chr, range(32, 127)), "\n"]
    vocabulary = RustTokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    vocabulary.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    vocabulary.decoder = decoders.Fuse()
    vocabulary.add_special_tokens(["</s>"])
    vocabulary.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    said = [{"instruction": "Which?", "output": each} for each in ["plain", "caf\u00e9s", "again"] * 5]
    (tmp_path / "in.json").write_text(json.dumps(said))
    prepare_sft("source=in.json", f"tokenizer.name={tmp_path}", "max_length=400", "template=default")
    out = capsys.readouterr().out
    assert (
        "5 of 15 conversations that were encoded and decoded as a trial do not come back: the tokenizer loses " in out
    )
    assert "loses '\u00e9' (U+00E9) in 'caf\u00e9s' of " in out
    assert "in.json:2; choose one that can spell this text" in out


@pytest.mark.parametrize(
    ("name", "content", "overrides", "message"),
    [
        (
            "in.jsonl",
            b'{"question": 1}',
            (),
            r"in.jsonl:1: the record has 'question', not those of instruction and output",
        ),
        (
            "in.jsonl",
            b'{"messages": []}',
            ("format=alpaca",),
            r"the record has 'messages', not those of alpaca: see format=",
        ),
        ("in.json", b'[{"instruction": ', (), r"in.json is damaged .*inside a JSON array, after element 0\)"),
        (
            "in.jsonl.gz",
            gzip.compress(b'{"a": 1}' * 99, mtime=0)[:-12],
            (),
            r"in.jsonl.gz is damaged after line 0, near byte .* \(EOFError: .*\): fetch",
        ),
        (
            "in.json",
            b"",
            (),
            r"not a single row, .*; the first of 1 bad records is in.json:1: the file is empty: fetch",
        ),
        (
            "in.jsonl.gz",
            gzip.compress(b"\n \n", mtime=0),
            (),
            r"first of 1 bad records is in.jsonl.gz:1: the file is empty: fetch it again, or",
        ),
        (
            "in.json",
            b'{\n "messages": []\n}',
            (),
            r"in.json:1: neither a JSON array nor JSON lines \(.*as one array, or",
        ),
        ("in.json", b'[{"instruction": "\\ud800"}]', (), r"in.json:1: not valid JSON \(.*: line 1 column 18 "),
        (
            "in.jsonl.zst",
            zstandard.compress(b'{"instruction": "a", "output": "b"}\n' * 99)[:-9],
            (),
            r"in.jsonl.zst is damaged after line \d+, near byte .* inside stream 1\): fetch",
        ),
        (
            "in.parquet",
            b"PAR1 and then nothing",
            (),
            r"in.parquet is damaged after row 0, near byte .*: fetch",
        ),
    ],
)
def test_input_that_is_of_no_use_is_refused_with_its_name(prepare_sft, tmp_path, name, content, overrides, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepare_sft(f"source={name}", *overrides)


def test_configuration_that_does_not_fit_is_refused(prepare_sft, tmp_path):
    (tmp_path / "in.json").write_text(json.dumps(records(2)))
    with pytest.raises(ConfigError, match=r"seq_len=100 is too small: with max_length=64 and copies=True .* take 128"):
        prepare_sft("source=in.json", "max_length=64", "seq_len=100")
    with pytest.raises(ConfigError, match=r"seq_len=3 is too small: it must be at least 4"):
        prepare_sft("source=in.json", "seq_len=3")
    with pytest.raises(ConfigError, match=r"remote is not set: for source=in.json say where to write"):
        prepare_sft("source=in.json", "remote=null")
    with pytest.raises(ConfigError, match=r"tokenizer.name is not set: for source=in.json give the folder or hub name"):
        prepare_sft("source=in.json", "tokenizer.name=null")
    with pytest.raises(ConfigError, match=r"tasks=2 is more than the 1 input files"):
        prepare_sft("source=in.json", "tasks=2")
    with pytest.raises(
        DataError,
        match=r"matches no file .*: .*\.parquet\) or URL of conversations \(JSON, JSON lines, CSV or parquet\), or s",
    ):
        prepare_sft("source=nowhere/*.json")
    with pytest.raises(DataError, match=r"not a single row: no conversation has an answer within max_length=8 tokens"):
        prepare_sft("source=in.json", "max_length=8")


@pytest.mark.parametrize(("copies", "max_length"), [("true", 160), ("false", 321)])
def test_a_short_row_alone_bounds_the_conversations(prepare_sft, tmp_path, copies, max_length):
    (tmp_path / "in.json").write_text(json.dumps(records(20)))
    prepare_sft("source=in.json", "seq_len=321", f"copies={copies}", "min_answer_tokens=1")
    config = read_manifest(tmp_path / "out").config
    assert (config["seq_len"], config["max_length"]) == (321, max_length)
    lengths = [len(tokens) for row in read_conversations(tmp_path / "out") for tokens, *_ in row]
    assert 0 < max(lengths) <= max_length


@pytest.fixture
def model_folder(tmp_path, tokenizer_dir) -> Callable[..., Path]:
    """A folder as of a finished model: its tokenizer beside its config.json."""

    def make(**described) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(tokenizer_dir, folder, dirs_exist_ok=True)
        (folder / "config.json").write_text(json.dumps(described))
        return folder

    return make


@pytest.mark.parametrize(
    ("described", "overrides", "max_length", "seq_len"),
    [
        ({"max_position_embeddings": 4096}, (), 2048, 4096),
        ({"max_position_embeddings": 4096}, ("copies=false",), 4096, 4096),
        ({"max_position_embeddings": 131_072}, (), 4096, 8192),
        ({"max_position_embeddings": 301}, (), 150, 300),
        ({"max_position_embeddings": 4096}, ("seq_len=1000",), 500, 1000),
        ({"max_position_embeddings": 200}, ("seq_len=1000",), 100, 1000),
        ({"max_position_embeddings": 32_768, "sliding_window": 4096}, (), 2048, 4096),
        ({"max_position_embeddings": 8192, "sliding_window": 64, "use_sliding_window": False}, (), 4096, 8192),
        ({"text_config": {"max_position_embeddings": 1024}}, (), 512, 1024),
        ({"model_type": "mamba"}, (), 4096, 8192),
    ],
)
def test_a_conversation_and_its_copy_fit_the_model_to_tune(model_folder, described, overrides, max_length, seq_len):
    config = load_config(SftPrepConfig, None, ["source=in.json", "remote=out", *overrides])
    context = model_context(str(model_folder(**described)))
    resolved = check_config(dataclasses.replace(config, tokenizer=TokenizerConfig(name="any")), context=context)
    assert (resolved.max_length, resolved.seq_len) == (max_length, seq_len)


def test_the_summary_says_what_the_context_decided_and_warns_of_what_exceeds_it(
    prepare_sft, model_folder, tmp_path, capsys
):
    (tmp_path / "in.json").write_text(json.dumps(records(9)))
    model = f"tokenizer.name={model_folder(max_position_embeddings=300)}"
    prepare_sft("source=in.json", model)
    assert read_manifest(tmp_path / "out").config["max_length"] == 150
    first = capsys.readouterr().out
    assert "; max_length=150 since the model reads 300 positions: half of the model's context, so that a" in first
    prepare_sft("source=in.json", model, "copies=false", "remote=plain")
    assert "; max_length=300 since the model reads 300 positions: its context; " in capsys.readouterr().out
    prepare_sft("source=in.json", model, "max_length=160", "remote=asked")
    told = capsys.readouterr().out
    assert "since the model reads" not in told
    assert (
        "warning: a conversation of max_length=160 tokens and its copy takes 320 positions, and the model of "
        "tokenizer.name reads 300: leave max_length unset (or train with sft.layout=separate)\n"
    ) in told


def test_a_job_is_done_once_and_another_one_is_refused(prepare_sft, tmp_path, capsys, tokenizer_dir):
    (tmp_path / "in.json").write_text(json.dumps(records(9)))
    prepare_sft("source=in.json", "max_length=128")
    capsys.readouterr()
    prepare_sft("source=in.json", "max_length=128", "max_bad_records=7")
    assert capsys.readouterr().out.startswith("already complete: 9 conversations, ")
    with pytest.raises(
        MismatchError, match=r"holds another data set; copies=True there, copies=False here; seq_len=256"
    ):
        prepare_sft("source=in.json", "max_length=128", "copies=false")
    (tmp_path / "own").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "own" / name).write_bytes((tokenizer_dir / name).read_bytes())
    arguments = ("source=in.json", "max_length=128", "remote=chat", "tokenizer.name=own")
    template = "{% for m in messages %}{{ m.content }}{{ eos_token if m.role == 'assistant' }}{% endfor %}"
    (tmp_path / "own" / "chat_template.jinja").write_text(template)
    prepare_sft(*arguments)
    (tmp_path / "own" / "chat_template.jinja").write_text("{{ bos_token }}" + template)
    with pytest.raises(MismatchError, match="the chat templates differ"):
        prepare_sft(*arguments)


@pytest.mark.slow
def test_the_split_is_by_text_and_the_sample_needs_no_file(prepare_sft, tmp_path, tokenizer):
    prepare_sft("source=sample", "max_length=300", "heldout_ratio=0.1", "tokenizer.bos_token=<s>")
    train, heldout = (
        [tuple(tokens) for row in read_conversations(tmp_path / "out", split) for tokens, _, _ in row]
        for split in ("train", "validation")
    )
    assert (
        len(train)
        + len(heldout)
        + sum(read_manifest(tmp_path / "out").counts.get(f"conversations_{x}", 0) for x in ("dropped",))
        <= 2000
    )
    assert not set(train) & set(heldout)
    assert 100 < len(heldout) < 300


@pytest.mark.slow
def test_both_samples_have_one_tokenizer_whichever_is_prepared_first(prepare, prepare_sft, tmp_path, capsys):
    sft = ("source=sample", "tokenizer.name=null", "remote=null", "heldout_ratio=0.01")
    prepare("seed=5")
    prepare_sft(*sft)
    of_corpus, of_chats = (
        load_tokenizer(TokenizerConfig(name=str(tmp_path / "data" / name / "mds" / "tokenizer")))
        for name in ("sample", "sample_sft")
    )
    assert of_corpus.fingerprint == of_chats.fingerprint
    manifest = json.loads((tmp_path / "data/sample_sft/mds/train/manifest.json").read_text())
    assert manifest["seq_len"] == 256
    assert 1200 <= manifest["rows"] <= 2400
    assert 0.6 < manifest["counts"]["conversations_copied"] / manifest["documents"] < 0.9
    assert "conversations_cut" not in manifest["counts"]
    capsys.readouterr()
    prepare("seed=5")
    prepare_sft(*sft)
    assert [line[:16] for line in capsys.readouterr().out.splitlines()] == ["already complete"] * 2

    shutil.copytree(tmp_path / "data/sample/tokenizer", tmp_path / "data/sample/mds/tokenizer", dirs_exist_ok=True)
    changed = json.loads((tmp_path / "data/sample/mds/tokenizer/tokenizer.json").read_text())
    changed["added_tokens"][0]["lstrip"] = True
    (tmp_path / "data/sample/mds/tokenizer/tokenizer.json").write_text(json.dumps(changed))
    with pytest.raises(MismatchError, match="delete data/sample and prepare it again, or set tokenizer.name="):
        prepare_sft(*sft)
