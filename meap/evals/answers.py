"""How much of the right answer is in a response."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from meap.extras import require_packages

__all__ = ["Rouge1", "best_subspan_em", "contains", "normalize_answer", "rouge1", "rouge_f1s", "word_overlap"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class Rouge1(NamedTuple):
    """Unigram overlap of a response with a reference."""

    precision: float
    recall: float
    f: float


def normalize_answer(text: str) -> str:
    """SQuAD's normalisation: lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def best_subspan_em(prediction: str, answers: Sequence[str]) -> bool:
    """Whether any answer is in the prediction, both normalised: the metric of lost in the middle (Liu et al., 2024).

    An answer that normalises to nothing would be in every prediction; here it is in none.
    """
    said = normalize_answer(prediction)
    return any(answer in said for answer in map(normalize_answer, answers) if answer)


def contains(prediction: str, answer: str) -> bool:
    """Whether the answer is in the prediction, ignoring case, and not inside a longer word or number."""
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", prediction, flags=re.IGNORECASE) is not None


def rouge1(response: str, reference: str) -> Rouge1:
    """ROUGE-1 by the ``rouge-score`` package, with stemming."""
    found = _scorer("rouge1").score(reference, response)["rouge1"]
    return Rouge1(float(found.precision), float(found.recall), float(found.fmeasure))


def rouge_f1s(response: str, reference: str) -> dict[str, float]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L by the ``rouge-score`` package, with stemming."""
    found = _scorer("rouge1", "rouge2", "rougeL").score(reference, response)
    return {name: float(each.fmeasure) for name, each in found.items()}


def word_overlap(response: str, answer: str) -> float:
    """Distinct words that both have, over the words of the answer: what Fu et al. (2024) plot.

    Its maximum is below 1 if the answer repeats a word.
    """
    words = answer.lower().split()
    return len(set(response.lower().split()) & set(words)) / len(words)


@cache
def _scorer(*names: str) -> Any:
    require_packages("ROUGE", "rouge_score", extra="eval")
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(names), use_stemmer=True)
