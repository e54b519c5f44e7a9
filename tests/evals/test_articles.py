"""Articles from files and from the hub."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from meap.errors import BadInputError, DataError
from meap.evals.articles import Article, draw_articles, read_articles


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize(
    ("data_set", "columns"),
    [
        ("xsum", ("document", "summary")),
        ("multi_news", ("document", "summary")),
        ("wikisum", ("article", "summary")),
        ("wikisum", ("document", "reference")),
    ],
)
def test_columns_are_those_of_the_published_sets_or_one_s_own(tmp_path, name, data_set, columns):
    path = write(tmp_path / name, [dict(zip(columns, (" text ", "short\n"), strict=True))])
    assert read_articles(data_set, path, "test") == [Article(0, "0", "text", "short")]


def test_rows_without_text_are_left_out(tmp_path):
    rows = [
        {"id": 7, "document": "a", "reference": "b", "prediction": "c"},
        {"id": 8, "document": " ", "reference": "b"},
        {"id": 9, "document": "a", "reference": ""},
        {"document": "d", "reference": "e"},
    ]
    found = read_articles("xsum", write(tmp_path / "a.jsonl", rows), "test")
    assert found == [Article(0, "7", "a", "b", "c"), Article(3, "3", "d", "e")]


def test_as_many_are_drawn_as_there_are(tmp_path):
    articles = [Article(row, str(row), "a", "b") for row in range(9)]
    drawn = draw_articles(articles, 4, seed="x")
    assert len(drawn) == len(set(drawn)) == 4
    assert drawn == sorted(drawn, key=lambda each: each.row) == draw_articles(articles, 4, seed="x")
    assert draw_articles(articles, 100, seed="x") == articles


def test_what_cannot_be_read_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="hallucination.xsum: there is no file .*none.jsonl; give one of JSON lines"):
        read_articles("xsum", str(tmp_path / "none.jsonl"), "test")
    other = write(tmp_path / "b.jsonl", [{"document": "a", "summary": "b"}, {"text": "x"}])
    with pytest.raises(
        BadInputError, match="row 1 has the columns text, but needs texts document and reference or .*: rename"
    ):
        read_articles("xsum", other, "test")
    (tmp_path / "c.parquet").write_text("no")
    with pytest.raises(BadInputError, match="c.parquet cannot be read"):
        read_articles("xsum", str(tmp_path / "c.parquet"), "test")


def test_a_set_of_the_hub_is_read_by_its_name_and_revision(monkeypatch):
    import datasets

    asked = []

    def load(name, *, revision, split):
        asked.append((name, revision, split))
        if name == "away":
            raise ConnectionError("no way\nat all")
        return [{"article": "a", "summary": "b"}]

    # The hub cannot be reached from a test.
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_articles("wikisum", "x/y@refs/convert/parquet", "test") == [Article(0, "0", "a", "b")]
    assert asked == [("x/y", "refs/convert/parquet", "test")]
    with pytest.raises(
        DataError, match=r"hallucination.xsum=away cannot be downloaded \(ConnectionError: no way\): connect"
    ):
        read_articles("xsum", "away", "validation")
    assert asked[-1] == ("away", None, "validation")
