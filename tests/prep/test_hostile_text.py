"""Whatever a line holds, it is encoded exactly, or counted and reported; nothing crashes and nothing hangs."""

import codecs
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.fault(13)

_FILLER = "the harbour lay quiet under a grey sky, and the boats rocked without a sound"
_DEPTH = 100_000
_SURROGATES = range(0xD800, 0xE000)

texts = st.text(max_size=200) | st.text("\0\r\n\t\x1c\x85\u2028\ufeff\ufffe\U0010ffff \u0301ﷺ", max_size=40)


def bad(line: str | bytes) -> tuple[str | bytes, None]:
    return line, None


_SURROGATE_ESCAPES = ["\\ud800", "\\udfff", "\\ud800\\ud800", "a\\udc00b"]
_NO_DOCUMENTS = [
    '{"text": "\0"}',
    '{"text": "a',
    "[]",
    "7",
    "null",
    '"text"',
    "{}",
    "{'text': 1}",
]
_DEEP = [f'{{"text": {"[" * _DEPTH}{"]" * _DEPTH}}}', '{"text":' * _DEPTH, f'{{"a": {"[" * _DEPTH}']

# What a line is, and the text it stands for: None where it is bad.
lines = st.one_of(
    st.tuples(texts, st.booleans()).map(lambda each: (json.dumps({"text": each[0]}, ensure_ascii=each[1]), each[0])),
    texts.map(lambda text: (f'{{"text": "no", "text": {json.dumps(text)}}}', text)),
    texts.map(lambda text: bad(f'{{"text": {json.dumps(text)}, "text": 7}}')),
    st.sampled_from(_SURROGATE_ESCAPES).map(lambda each: bad(f'{{"text": "{each}"}}')),
    st.sampled_from([*_NO_DOCUMENTS, *_DEEP]).map(bad),
    st.just(('\ufeff{"text": "a"}', "a")),  # where a file with a mark was joined to another
    st.binary(max_size=60).map(lambda each: bad(each.translate(None, b"\r\n") + b"\xff")),
)


@pytest.fixture
def prepared(prepare, tmp_path, tokenizer_dir, read_rows):
    """Prepare a file of these bytes; its tokens, and what the task has recorded."""
    numbers = itertools.count()

    def run(content: bytes) -> tuple[np.ndarray, dict]:
        name = f"{next(numbers)}"
        Path(f"{name}.jsonl").write_bytes(content)
        prepare(
            f"source={name}.jsonl",
            f"remote={name}",
            f"tokenizer.name={tokenizer_dir}",
            "seq_len=7",
            "heldout_ratio=0",
            "max_bad_lines=1000",
        )
        record = json.loads((tmp_path / name / ".prep" / "tasks" / "00000.json").read_text())
        return read_rows(tmp_path / name / "train").ravel(), record

    return run


@pytest.fixture
def assert_encoded(tokenizer, tokenizer_dir):
    """The tokens are those of the texts, as the published library gives them, and say the same texts again."""
    from tokenizers import Tokenizer as Published

    published = Published.from_file(str(tokenizer_dir / "tokenizer.json"))

    def check(tokens: np.ndarray, expected: list[str]) -> None:
        encoded = [published.encode(text, add_special_tokens=False).ids for text in expected]
        assert [published.decode(ids, skip_special_tokens=False) for ids in encoded] == expected
        stream = [each for ids in encoded for each in (tokenizer.bos_id, *ids, tokenizer.eos_id)]
        np.testing.assert_array_equal(tokens, stream[: len(tokens)])
        assert len(stream) - len(tokens) < 8, "less than a row is left over"

    return check


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(drawn=st.lists(lines, max_size=25), end=st.sampled_from([b"\n", b"\r\n", b"\n\n \r\n"]), bom=st.booleans())
def test_any_line(prepared, assert_encoded, drawn, end, bom):
    drawn = [(_FILLER_LINE, _FILLER), *drawn]
    content = end.join(line if isinstance(line, bytes) else line.encode() for line, _ in drawn)
    tokens, record = prepared(codecs.BOM_UTF8 * bom + content)
    texts = [text for _, text in drawn if text is not None]
    assert record["bad_lines"] == len(drawn) - len(texts)
    assert record["empty_documents"] == texts.count("")
    assert record["splits"]["train"]["documents"] == len(texts) - texts.count("")
    # Each bad line is named with its number, up to a bound.
    numbers = [each["line"] for each in record["kept_bad_lines"]]
    per_line = end.count(b"\n")
    assert numbers == [1 + per_line * number for number, (_, text) in enumerate(drawn) if text is None][: len(numbers)]
    assert bool(numbers) == bool(record["bad_lines"])
    assert_encoded(tokens, [text for text in texts if text])


_FILLER_LINE = json.dumps({"text": _FILLER})


@pytest.mark.slow
def test_every_plane(prepared, assert_encoded, record_property):
    """All code points of the first two planes, and every 64th of the others with all of their ends."""
    steps = [range(start, start + 0x10000, 1 if start < 0x20000 else 64) for start in range(0, 0x110000, 0x10000)]
    points = [point for step in steps for point in (*step, step.start + 0xFFFE, step.start + 0xFFFF)]
    kept = [chr(point) for point in points if point not in _SURROGATES]
    texts = ["".join(kept[start : start + 2000]) for start in range(0, len(kept), 2000)]
    tokens, record = prepared(
        b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in texts)
    )
    assert (record["bad_lines"], record["splits"]["train"]["documents"]) == (0, len(texts))
    assert_encoded(tokens, texts)
    record_property("injected", len(kept))


@pytest.mark.slow
def test_a_line_of_50_mb(prepared, tokenizer, record_property):
    unit = f" {_FILLER}"
    count = 50_000_000 // len(unit) + 1
    garbage = b'{"text": "' + b"x" * 50_000_000
    tokens, record = prepared(
        json.dumps({"text": unit * count}).encode() + b"\n" + garbage + b"\n" + _FILLER_LINE.encode()
    )
    assert (record["bad_lines"], record["splits"]["train"]["documents"]) == (1, 2)
    ids = tokenizer.encode(unit)
    assert tokens[0] == tokenizer.bos_id
    np.testing.assert_array_equal(tokens[1 : 1 + count * len(ids)], np.tile(np.array(ids, tokens.dtype), count))
    record_property("injected", 2)
