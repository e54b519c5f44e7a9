import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meap.packing import RowPacker

BOS, EOS = 1, 2


@given(
    documents=st.lists(st.lists(st.integers(3, 60_000), max_size=40), max_size=30),
    row_len=st.integers(1, 33),
    batch=st.integers(1, 7),
)
@settings(max_examples=150, deadline=None)
def test_rows_and_tail_are_the_stream_whatever_the_batches(documents, row_len, batch):
    stream = [token for document in documents for token in (BOS, *document, EOS)]
    packer = RowPacker(row_len, borders=(BOS, EOS), dtype=np.dtype(np.uint16))
    packed = [
        packer.pack([np.array(document, np.uint32) for document in documents[start : start + batch]])
        for start in range(0, len(documents), batch)
    ]
    rows = np.concatenate([*packed, np.empty((0, row_len), np.uint16)])
    assert rows.dtype == np.uint16
    assert [*rows.reshape(-1).tolist(), *packer.tail.tolist()] == stream
    assert len(packer.tail) < row_len


def test_an_empty_document_is_only_its_borders():
    packer = RowPacker(2, borders=(BOS, EOS), dtype=np.dtype(np.uint16))
    assert packer.pack([np.empty(0, np.uint32)]).tolist() == [[BOS, EOS]]
