"""Contextual hallucination in summaries, scored by a judge: paper (arXiv 2502.07490) Table 4.

100 articles each of XSum, MultiNews and WikiSum are summarised, and another language model judges each summary, in two
ways:

    similarity     the paper's: the judge sees the output and the reference, not the article, explains, and ends with
                   ``Score: 1`` if they are similar or ``Score: 0``. It measures similarity to a reference.
    faithfulness   that of Lookback Lens (Chuang et al., 2024; repository voidism/Lookback-Lens, 1320454), which the
                   field uses: document, reference and summary, explanation first, then ``Conclusion: True`` if the
                   document supports all that the summary says, or ``Conclusion: False``. It measures hallucination.

What was matched: the prompt of the model, that of appendix A.5, ``Summarize the following article:`` and the article;
the texts that the judge sees; explanation first; 1 or 0; temperature 0 of the judge; the mean as accuracy, higher is
better. What differs or is unstated there: the judge's prompts are reworded, with texts between marks that they cannot
forge; `hallucination.template` alpaca puts the prompt into Alpaca's frame, for models tuned on it; decoding is greedy,
up to `hallucination.max_new_tokens`; articles are truncated to `hallucination.document_tokens`, which is counted, and
the judge sees the truncated article; the articles are drawn by `seed`; an empty summary is wrong without asking the
judge; a reply without a verdict is counted separately, neither right nor wrong. ROUGE needs no judge. With 100 articles
the standard error is three to five points: compare two models by `compare=`, which pairs them, or draw more.

If a set has predictions of another model, they are judged as a control, in a row of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from meap.config import EvaluationConfig
from meap.evals.answers import rouge_f1s
from meap.evals.articles import COLUMNS, Article, draw_articles, is_file, read_articles
from meap.evals.judge.judging import judge_facts, open_judging, summary_of
from meap.evals.judge.protocols import PROTOCOLS
from meap.evals.pictures import draw_rows
from meap.evals.task import Example, Metric, Output, Response, Scores, Task, TaskInputs

__all__ = ["TASK", "examples", "prompt", "score"]

_INSTRUCTION = "Summarize the following article:"
_TEMPLATES = {
    "plain": "{instruction} {document}",
    "alpaca": (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{document}\n\n### Response:\n"
    ),
}
_ROUGE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


def prompt(document: str, template: str = "plain") -> str:
    """The prompt of the model."""
    return _TEMPLATES[template].format(instruction=_INSTRUCTION, document=document)


def examples(inputs: TaskInputs) -> list[Example]:
    """Articles by set, and the predictions of the set."""
    config = inputs.config.hallucination
    found: list[Example] = []
    for name in COLUMNS:
        source = getattr(config, name)
        if source is None:
            continue
        articles = read_articles(name, source, config.split)
        drawn = draw_articles(articles, config.examples, seed=f"hallucination {inputs.config.seed} {name}")
        found += [each for article in drawn for each in _examples_of(name, article, inputs)]
    return found


def score(example: Example, output: Output) -> Scores:
    """ROUGE of a summary with the reference."""
    summary = summary_of({"prediction": example.facts["prediction"], "text": output.text})
    return rouge_f1s(summary, example.answers[0])


def _examples_of(name: str, article: Article, inputs: TaskInputs) -> Iterator[Example]:
    config = inputs.config.hallucination
    [ids] = inputs.tokenizer.encode_batch([article.document])
    kept = ids[: config.document_tokens]
    cut = len(kept) < len(ids)
    document = inputs.tokenizer.decode(kept.tolist()) if cut else article.document
    facts = {
        "data_set": name,
        "condition": None,
        "article": article.name,
        "document": document,
        "document_tokens": len(ids),
        "kept_tokens": len(kept),
        "prediction": None,
    }
    [asked] = inputs.encode([prompt(document, config.template)])
    yield Example(
        id=f"{name}-{article.row}",
        prompt=asked,
        max_new_tokens=config.max_new_tokens,
        answers=(article.reference,),
        facts=facts,
    )
    if article.prediction is not None:
        # Its hash is part of the id: another prediction is another example.
        digest = hashlib.sha256(article.prediction.encode()).hexdigest()[:8]
        yield Example(
            id=f"{name}-{article.row}-prediction-{digest}",
            answers=(article.reference,),
            facts=facts | {"condition": "prediction", "prediction": article.prediction},
            control=True,
        )


def _skip(inputs: TaskInputs) -> str | None:
    config = inputs.config.hallucination
    if any(getattr(config, name) is not None for name in COLUMNS):
        return None
    return f"no articles are given: set {' or '.join(f'hallucination.{name}' for name in COLUMNS)}"


def _packages(config: EvaluationConfig) -> tuple[str, ...]:
    sources = [getattr(config.hallucination, name) for name in COLUMNS]
    from_hub = any(source is not None and not is_file(source) for source in sources)
    return ("rouge_score", *(["openai"] if config.judge.model else []), *(["datasets"] if from_hub else []))


def _further(responses: Sequence[Response]) -> dict[str, Any]:
    asked = [response for response in responses if not response["control"]]
    cut = [response for response in asked if response["kept_tokens"] < response["document_tokens"]]
    judge, notes = judge_facts(responses), []
    if cut:
        limit = max(response["kept_tokens"] for response in cut)
        notes.append(f"{len(cut):,} of {len(asked):,} articles were cut to {limit:,} tokens")
    if judge is None:
        notes.append("no judge was asked: set judge.model, judge.base_url and prices to have summaries judged")
    else:
        notes += [
            f"{number:,} replies had no verdict, and are not in '{PROTOCOLS[protocol].label}'"
            for protocol, number in judge["without_verdict"].items()
            if number
        ]
        who = ", ".join(judge["models"]) or "nobody (all summaries were empty)"
        notes.append(f"judged by {who} for {judge['dollars']:.4f} dollars")
    return {"judge": judge, "articles_cut": len(cut), "notes": notes}


def _draw(axes: Any, numbers: dict[str, Any]) -> None:
    judged = [name for name in PROTOCOLS if name in numbers["metrics"]]
    draw_rows(axes, numbers, metrics=judged or ["rouge1", "rougeL"])


TASK = Task(
    title="Contextual hallucination",
    examples=examples,
    score=score,
    metrics=(
        *(Metric(name, protocol.label) for name, protocol in PROTOCOLS.items()),
        *(Metric(name, label) for name, label in _ROUGE.items()),
    ),
    by=("data_set", "condition"),
    packages=_packages,
    draw=_draw,
    skip=_skip,
    judging=open_judging,
    further=_further,
)
