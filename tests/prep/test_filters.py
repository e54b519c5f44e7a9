"""Filters leave out what datatrove's own blocks say, count it with the reason, and change nothing else."""

import json
import random
import re

import pytest

from meap.config import PrepConfig, load_config
from meap.errors import BadInputError, ConfigError, DataError, MismatchError

_PEOPLE = ("the keeper", "a sailor", "my neighbour", "the baker", "an old friend", "the captain")
_DEEDS = ("walked to", "wrote about", "looked after", "painted", "asked for", "returned with", "dreamt of")
_THINGS = ("the lamp", "that harbour", "a letter", "the wooden boat", "some bread", "the river", "an open window")
_ENDS = (
    "before dawn",
    "and that was that",
    "with little hope",
    "in a strong wind",
    "to be sure of it",
    "of all things",
)


@pytest.fixture(scope="module")
def make_stories():
    """Texts that most filters like: sentences of ordinary words, some of them in lines that end without a stop."""

    def make(count: int, seed: int) -> list[str]:
        rng = random.Random(seed)

        def sentence() -> str:
            return " ".join([*map(rng.choice, (_PEOPLE, _DEEDS, _THINGS, _ENDS)), str(rng.randint(0, 999))]) + "."

        return [
            "\n".join(
                " ".join(sentence() for _ in range(rng.randint(1, 4))) + rng.choice(["", "", "", " and"])
                for _ in range(rng.randint(1, 6))
            )
            for _ in range(count)
        ]

    return make


@pytest.fixture
def arguments(tokenizer_dir):
    return (f"tokenizer.name={tokenizer_dir}", "seq_len=31", "shard_size=8kb", "heldout_ratio=0.1")


def _reference(names: list[str], text: str) -> tuple[str | None, str]:
    """The text as datatrove's blocks leave it, or None and which of them removes it."""
    from datatrove.data import Document
    from datatrove.pipeline import filters

    blocks = {
        "gopher_quality": filters.GopherQualityFilter,
        "gopher_repetition": filters.GopherRepetitionFilter,
        "c4_quality": filters.C4QualityFilter,
        "fineweb_quality": filters.FineWebQualityFilter,
    }
    document = Document(text, id="0")
    for name in names:
        result = blocks[name]().filter(document)
        if result is not True:
            return None, f"{name}/{result[1]}"
    return document.text, ""


def _manifest(remote):
    return json.loads((remote / "train" / "manifest.json").read_text())


def _data(hashes: dict[str, str]) -> dict[str, str]:
    """Without what says where the data came from."""
    return {name: value for name, value in hashes.items() if ".mds" in name or name.endswith("index.json")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [["gopher_quality", "fineweb_quality"], ["c4_quality"], ["gopher_repetition", "c4_quality"]], ids="-".join
)
def test_quality_filters_leave_what_datatrove_leaves(
    prepare, tmp_path, arguments, make_stories, make_texts, write_lines, hashes_of, capsys, names
):
    removed, kept = {}, 0
    for number in range(2):
        texts = [*make_stories(25, number), *make_texts(10, seed=number), "short", "it has { in it."]
        random.Random(number).shuffle(texts)
        outcomes = [_reference(names, text) for text in texts]
        for _, reason in outcomes:
            removed[reason] = removed.get(reason, 0) + 1
        write_lines(tmp_path / "in" / f"{number}.jsonl", texts)
        write_lines(tmp_path / "left" / f"{number}.jsonl", [text for text, _ in outcomes if text is not None])
    kept = removed.pop("")
    assert kept >= 10, "too few texts pass to measure anything"
    assert len(removed) >= 2

    prepare("source=left", *arguments, "tasks=2", "remote=expected")
    capsys.readouterr()
    prepare("source=in", *arguments, "tasks=2", "remote=out", f"filters.quality=[{','.join(names)}]")
    assert _data(hashes_of(tmp_path / "out")) == _data(hashes_of(tmp_path / "expected"))

    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"complete: {kept} documents, ")
    num_removed = sum(removed.values())
    told = f"removed {num_removed} of {num_removed + kept} documents, "
    assert printed[1].startswith(told)
    assert re.search(r"[\d.]+ [kM]?B of text \(examples in out/.prep/removed\):$", printed[1])
    for reason, count in removed.items():
        assert any(line.split() == [reason, str(count), f"{count / 74:.1%}"] for line in printed), reason
    counts = _manifest(tmp_path / "out")["counts"]
    found = {name.removeprefix("removed/"): count for name, count in counts.items() if name.startswith("removed/")}
    assert found == removed
    cut_lines = sum(count for name, count in counts.items() if name.startswith("removed_lines/"))
    assert (cut_lines > 0) == ("c4_quality" in names)

    examples = [
        json.loads(line)
        for task in range(2)
        for line in (tmp_path / "out" / ".prep" / "removed" / f"{task:05d}.jsonl").read_text().splitlines()
    ]
    assert {each["removed_by"] for each in examples} == set(removed)
    for each in examples:
        line = (tmp_path / each["file"]).read_text().splitlines()[each["line"] - 1]
        assert json.loads(line)["text"].startswith(each["text"])
    assert all(len([each for each in examples if each["removed_by"] == reason]) <= 10 for reason in removed)


def test_while_off_they_leave_no_trace(prepare, tmp_path, arguments, make_texts, write_lines, hashes_of):
    write_lines(tmp_path / "in.jsonl", make_texts(50))
    prepare("source=in.jsonl", *arguments, "remote=plain")
    prepare("source=in.jsonl", *arguments, "remote=unused", "filters.words=deu", "dedup.n_grams=3")
    assert hashes_of(tmp_path / "unused") == hashes_of(tmp_path / "plain")
    assert not {"filters", "dedup"} & _manifest(tmp_path / "plain")["config"].keys()
    assert not {"filters", "dedup"} & json.loads((tmp_path / "plain/.prep/job.json").read_text())["config"].keys()
    assert not _manifest(tmp_path / "plain")["counts"]
    assert {path.name for path in (tmp_path / "plain" / ".prep").iterdir()} & {"removed", "dedup"} == set()


def test_filters_belong_to_the_identity(prepare, tmp_path, arguments, make_texts, write_lines, capsys):
    write_lines(tmp_path / "in.jsonl", make_texts(50))
    prepare("source=in.jsonl", *arguments, "remote=out", "filters.regex=gull")
    first = capsys.readouterr().out
    assert "regex/match" in first
    prepare("source=in.jsonl", *arguments, "remote=out", "filters.regex=gull")
    again = capsys.readouterr().out
    assert again.startswith("already complete: ")
    assert again.splitlines()[1:] == first.splitlines()[1:]
    with pytest.raises(MismatchError, match=r"out holds another data set; filters.regex=gull there, filters.regex=sal"):
        prepare("source=in.jsonl", *arguments, "remote=out", "filters.regex=salt")
    with pytest.raises(MismatchError, match=r"filters.regex=gull there, filters.regex=None here"):
        prepare("source=in.jsonl", *arguments, "remote=out")


def test_a_regular_expression_removes_what_it_is_found_in(prepare, tmp_path, arguments, make_texts, write_lines):
    texts = make_texts(60)
    write_lines(tmp_path / "in.jsonl", texts)
    prepare("source=in.jsonl", *arguments, "remote=out", "filters.regex='gull.*storm'")
    import re

    matched = [text for text in texts if re.search("gull.*storm", text)]
    manifest = _manifest(tmp_path / "out")
    assert manifest["counts"] == {"removed/regex/match": len(matched)}
    assert 0 < len(matched) < 60


def test_no_row_at_all_says_what_was_removed(prepare, arguments, make_texts, write_lines, tmp_path):
    write_lines(tmp_path / "in.jsonl", make_texts(20))
    message = r"not a single row: 0 tokens in 1 tasks \(filters and deduplication removed 20 documents\), and a row"
    with pytest.raises(DataError, match=message):
        prepare("source=in.jsonl", *arguments, "remote=out", "filters.regex=.")


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A fastText model of two languages of a few words."""
    fasttext = pytest.importorskip("fasttext", reason="install the extra [filters] (wheels for Linux only)")
    rng = random.Random(1)
    words = {
        "en": ["the", "sea", "and", "a", "boat", "with", "you"],
        "de": ["das", "meer", "und", "ein", "boot", "mit", "dir"],
    }
    folder = tmp_path_factory.mktemp("model")
    lines = [f"__label__{name} {' '.join(rng.choices(words[name], k=8))}" for name in words for _ in range(200)]
    (folder / "lines.txt").write_text("\n".join(lines) + "\n")
    # With fewer than 10 threads, or a matrix that 10 does not divide, this version leaves weights uninitialised.
    model = fasttext.train_supervised(str(folder / "lines.txt"), dim=10, epoch=20, lr=0.5, thread=10, verbose=0)
    model.save_model(str(folder / "two.bin"))
    return folder / "two.bin", words


def test_languages_are_told_apart_by_a_local_model(prepare, tmp_path, arguments, language_model, write_lines, capsys):
    model, words = language_model
    rng = random.Random(2)
    texts = [" ".join(rng.choices(words[rng.choice(["en", "en", "de"])], k=40)) for _ in range(60)]
    write_lines(tmp_path / "in.jsonl", texts)
    (tmp_path / "two.bin").write_bytes(model.read_bytes())
    command = ("source=in.jsonl", *arguments, "filters.language_model=two.bin")
    prepare(*command, "remote=out", "filters.languages=[en]")
    german = sum(set(text.split()) <= set(words["de"]) for text in texts)
    assert 0 < german < 60
    assert _manifest(tmp_path / "out")["counts"] == {"removed/language/de": german}
    assert f"{60 - german} documents" in capsys.readouterr().out
    prepare(*command, "remote=both", "filters.languages=[en,de]")
    assert not _manifest(tmp_path / "both")["counts"]
    with pytest.raises(ConfigError, match=r"two.bin does not know 'eng'; it knows 2 languages, such as en"):
        prepare(*command, "remote=other", "filters.languages=[eng]")
    (tmp_path / "one.bin").write_bytes(b"no model")
    (tmp_path / "two.bin").write_bytes(model.read_bytes() + b"more")
    with pytest.raises(MismatchError, match=r"out holds another data set; the language models differ: choose"):
        prepare(*command, "remote=out", "filters.languages=[en]")
    with pytest.raises(ConfigError, match=r"filters.language_model=.*one.bin is not a fastText model: "):
        prepare(*command, "remote=other", "filters.languages=[en]", "filters.language_model=one.bin")
    with pytest.raises(ConfigError, match=r"filters.language_model=none.bin is not a file: download https://dl.fbai"):
        prepare(*command, "remote=other", "filters.languages=[en]", "filters.language_model=none.bin")


def test_a_document_that_a_filter_cannot_cope_with_is_named(
    prepare, tmp_path, arguments, make_texts, write_lines, monkeypatch
):
    from datatrove.pipeline.filters import RegexFilter

    def fail(_, document):
        return len(document.text) / (document.text != "odd")

    monkeypatch.setattr(RegexFilter, "filter", fail)
    write_lines(tmp_path / "in.jsonl", [*make_texts(5), "odd", "even"])
    message = r"in.jsonl:6: a filter fails on this document \(ZeroDivisionError: division by zero\): leave it"
    for other in ("dedup.exact=false", "dedup.exact=true"):
        with pytest.raises(BadInputError, match=message):
            prepare("source=in.jsonl", *arguments, f"remote={other}", "filters.regex=x", other)


def test_a_missing_package_is_one_error_that_names_the_extra(prepare, tmp_path, arguments, write_lines, monkeypatch):
    from datatrove.utils import _import_utils, word_tokenizers

    monkeypatch.setattr(_import_utils, "_is_package_available", lambda name: name not in {"spacy", "fasttext"})
    word_tokenizers.load_word_tokenizer.cache_clear()
    write_lines(tmp_path / "in.jsonl", ["a text"])
    command = ("source=in.jsonl", *arguments, "remote=out")
    needs, remedy = r"needs more packages \(Please install ", ".*make install EXTRAS=filters "
    with pytest.raises(ConfigError, match=rf"filters.words=eng {needs}`spacy`{remedy}"):
        prepare(*command, "filters.quality=[gopher_quality]")
    with pytest.raises(ConfigError, match=rf"dedup.words=eng {needs}`spacy`{remedy}"):
        prepare(*command, "dedup.minhash=true")
    (tmp_path / "any.bin").touch()
    with pytest.raises(ConfigError, match=rf"filters.languages {needs}`fasttext`{remedy}"):
        prepare(*command, "filters.languages=[en]", "filters.language_model=any.bin")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "filters.quality=[gopher]",
            r"filters.quality='gopher' is not known: choose one of c4_quality, fineweb_",
        ),
        (
            "filters.quality=[c4_quality,c4_quality]",
            r"filters.quality=\['c4_quality', 'c4_quality'\] names a filter t",
        ),
        ("filters.regex='('", r"filters.regex='\(' is not a regular expression: missing \)"),
        (
            "filters.languages=[en]",
            r"filters.language_model is not set: filters.languages needs a fastText model",
        ),
        ("filters.language_threshold=1", r"filters.language_threshold=1.0 is out of range"),
        ("dedup.n_grams=0", r"dedup.n_grams=0 is too small: it must be at least 1"),
        ("dedup.num_buckets=0", r"dedup.num_buckets=0 is too small"),
        ("dedup.hashes_per_bucket=0", r"dedup.hashes_per_bucket=0 is too small"),
    ],
)
def test_values_out_of_range_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(PrepConfig, None, [override])


def test_an_unknown_language_of_words_is_refused(prepare, tmp_path, arguments, write_lines):
    write_lines(tmp_path / "in.jsonl", ["a text"])
    with pytest.raises(ConfigError, match=r"filters.words='english' is not a language whose words datatrove can split"):
        prepare("source=in.jsonl", *arguments, "remote=o", "filters.quality=[c4_quality]", "filters.words=english")
