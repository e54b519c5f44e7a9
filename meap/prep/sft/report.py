"""What preparation counts of conversations, and a sentence about it: a run's batch size follows from these numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from meap.schema import COPIED

__all__ = [
    "ANSWERS",
    "CUT",
    "CUT_TOKENS",
    "DROPPED",
    "ENDED_BY",
    "LONG_ANSWERS",
    "OPEN_ANSWERS",
    "PAPER_BATCH",
    "POSITIONS",
    "ROWS_PER_BATCH",
    "SHORTENED",
    "UNPROMPTED",
    "describe_context",
    "describe_packing",
    "rows_per_batch",
    "stop_ids",
    "warning_of_context",
    "warnings_of",
]

ANSWERS = "answers_scored"
LONG_ANSWERS = "answers_copied"
"""Scored answers that are long enough to be masked in the copy."""
OPEN_ANSWERS = "answers_without_end"
"""Scored answers that no token of its own ends."""
ENDED_BY = "answers_ended_by:"
"""Prefix of an id: scored answers that this token ends."""
CUT = "conversations_cut"
"""Cut to length."""
CUT_TOKENS = "tokens_cut"
"""Left out by that."""
DROPPED = "conversations_dropped"
"""Left out, since nothing of their answers was left after the cut."""
SHORTENED = "conversations_without_first_answer"
"""Begun by the assistant; its answers before the first question are left out."""
UNPROMPTED = "conversations_with_another_prompt"
"""Where the prompt that inference renders is not what stands before the answers."""
POSITIONS = "positions_used"
"""Of all rows, with copies; the rest is padding."""

_MANY_CUT = 0.1
_FEW_ROWS = 4

PAPER_BATCH = 512
"""Conversations of a batch in the paper's fine-tuning."""
ROWS_PER_BATCH = f"rows_per_{PAPER_BATCH}_conversations"


def rows_per_batch(conversations: int, rows: int) -> int:
    """Rows that hold about `PAPER_BATCH` conversations, at least 1."""
    return max(1, round(PAPER_BATCH * rows / max(1, conversations)))


def stop_ids(counts: Iterable[Mapping[str, int]]) -> tuple[int, ...]:
    """Ids of the tokens that end scored answers, the most frequent first."""
    total = sum(map(Counter, counts), Counter[str]())
    ended = {int(name.removeprefix(ENDED_BY)): count for name, count in total.items() if name.startswith(ENDED_BY)}
    return tuple(sorted(ended, key=lambda number: (-ended[number], number)))


def describe_packing(counts: Mapping[str, int], *, conversations: int, rows: int, seq_len: int) -> str:
    """A sentence about a split.

    Args:
        counts: By the names above; absent is zero.
        conversations: Those in its rows.
        rows: Its rows.
        seq_len: Positions of a row.
    """
    names = (ANSWERS, LONG_ANSWERS, COPIED, DROPPED, SHORTENED)
    answers, long, copied, dropped, shortened = (counts.get(name, 0) for name in names)
    cut = f"{counts.get(CUT, 0):,} cut" + (f" ({counts[CUT_TOKENS]:,} tokens)" if counts.get(CUT_TOKENS) else "")
    fill, mean = counts.get(POSITIONS, 0) / max(1, rows * seq_len), conversations / max(1, rows)
    first = f", {shortened:,} without the answers before their first question" if shortened else ""
    return (
        f"{copied:,} copied ({long:,} of {answers:,} answers are long enough), {cut}, {dropped:,} dropped{first}; "
        f"{mean:,.1f} conversations per row, "
        f"{fill:.1%} of {seq_len:,} positions used; {_advise_batch(rows_per_batch(conversations, rows), rows)}"
    )


def _advise_batch(needed: int, rows: int) -> str:
    if needed > rows:
        return f"fewer than the paper's batch of {PAPER_BATCH} conversations: train with a smaller one"
    return f"train.global_batch_size={needed:,} is the paper's batch of {PAPER_BATCH} conversations"


def describe_context(context: int | None, *, max_length: int, views: int) -> str:
    """A sentence where the model's context is what bounds the length of a conversation; else empty.

    Args:
        context: Positions of the model to tune; None where they are not known.
        max_length: Most tokens of a conversation.
        views: Most views of a conversation in its row.
    """
    if context is None or max_length != context // views:
        return ""
    share = "half of the model's context, so that a copy fits beside a conversation" if views > 1 else "its context"
    return f"max_length={max_length:,} since the model reads {context:,} positions: {share}"


def warning_of_context(context: int | None, *, max_length: int, views: int) -> str:
    """A warning where the longest conversation does not fit the model; else empty. Arguments as above."""
    positions = max_length * views
    if context is None or positions <= context:
        return ""
    beside, separate = (" and its copy", " (or train with sft.layout=separate)") if views > 1 else ("", "")
    return (
        f"a conversation of max_length={max_length:,} tokens{beside} takes {positions:,} positions, and the model of "
        f"tokenizer.name reads {context:,}: leave max_length unset{separate if max_length <= context else ''}"
    )


def warnings_of(
    counts: Mapping[str, int],
    *,
    conversations: int,
    heldout_rows: int | None,
    max_length: int,
    views: int,
    min_answer_tokens: int,
) -> Iterator[str]:
    """What users should look at before they train.

    Args:
        counts: Of all splits, by the names above.
        conversations: Those in rows.
        heldout_rows: Rows of the validation split; None where nothing was to be held out.
        max_length: Most tokens of a conversation.
        views: Most views of a conversation in its row.
        min_answer_tokens: What an answer must have more of to be masked in a copy.
    """
    whole = max(1, conversations + counts.get(DROPPED, 0))
    if (cut := counts.get(CUT, 0)) > _MANY_CUT * whole:
        yield (
            f"{cut:,} of {whole:,} conversations ({cut / whole:.0%}) are longer than max_length={max_length:,} and "
            "were cut, so that their last answers end nowhere: raise it if the model reads more"
            + (", or set copies=false, which leaves room for twice as much" if views > 1 else "")
        )
    if views > 1 and conversations and not counts.get(COPIED, 0):
        yield (
            f"no conversation has a masked copy, since none of the {counts.get(ANSWERS, 0):,} answers has more than "
            f"{min_answer_tokens} tokens: training would mask nothing, and refuses to; lower min_answer_tokens, or set "
            "masking.ratio=0 there"
        )
    if open_answers := counts.get(OPEN_ANSWERS, 0):
        yield (
            f"the template ends {open_answers:,} answers with no token of its own, so that the model cannot learn to "
            "stop after them: use one that writes eos_token or an end of turn, such as template=default"
        )
    if other := counts.get(UNPROMPTED, 0):
        yield (
            f"in {other:,} conversations the template writes something else before an answer than the prompt that it "
            "makes for inference (such as an opened thought): the model will be prompted in another way than it learned"
        )
    if heldout_rows is not None and heldout_rows < _FEW_ROWS:
        yield (
            f"{heldout_rows} rows are held out, which few devices can share: raise heldout_ratio, or prepare more "
            "conversations"
        )
