"""What preparation counts of conversations, and a sentence about it: a run's batch size follows from these numbers."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "COPIED",
    "CUT",
    "CUT_TOKENS",
    "DROPPED",
    "PAPER_BATCH",
    "POSITIONS",
    "ROWS_PER_BATCH",
    "SHORTENED",
    "describe_packing",
    "rows_per_batch",
]

COPIED = "conversations_copied"
"""Conversations that get a masked copy."""
CUT = "conversations_cut"
"""Cut to length."""
CUT_TOKENS = "tokens_cut"
"""Left out by that."""
DROPPED = "conversations_dropped"
"""Left out, since nothing of their answers was left after the cut."""
SHORTENED = "conversations_without_first_answer"
"""Begun by the assistant; its answers before the first question are left out."""
POSITIONS = "positions_used"
"""Of all rows, with copies; the rest is padding."""

PAPER_BATCH = 512
"""Conversations of a batch in the paper's fine-tuning."""
ROWS_PER_BATCH = f"rows_per_{PAPER_BATCH}_conversations"


def rows_per_batch(conversations: int, rows: int) -> int:
    """Rows that hold about `PAPER_BATCH` conversations, at least 1."""
    return max(1, round(PAPER_BATCH * rows / max(1, conversations)))


def describe_packing(counts: Mapping[str, int], *, conversations: int, rows: int, seq_len: int) -> str:
    """A sentence about a split.

    Args:
        counts: By the names above; absent is zero.
        conversations: Those in its rows.
        rows: Its rows.
        seq_len: Positions of a row.
    """
    copied, dropped, shortened = (counts.get(name, 0) for name in (COPIED, DROPPED, SHORTENED))
    cut = f"{counts.get(CUT, 0):,} cut" + (f" ({counts[CUT_TOKENS]:,} tokens)" if counts.get(CUT_TOKENS) else "")
    fill, mean = counts.get(POSITIONS, 0) / max(1, rows * seq_len), conversations / max(1, rows)
    first = f", {shortened:,} without the answers before their first question" if shortened else ""
    return (
        f"{copied:,} copied, {cut}, {dropped:,} dropped{first}; {mean:,.1f} conversations per row, "
        f"{fill:.1%} of {seq_len:,} positions used; {PAPER_BATCH} conversations (the paper's batch) are "
        f"{rows_per_batch(conversations, rows):,} rows: train.global_batch_size"
    )
