"""Columns that a judge adds to the responses of summaries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from meap.config import EvaluationConfig
from meap.evals.judge.endpoint import Endpoint
from meap.evals.judge.protocols import PROTOCOLS
from meap.evals.judge.replies import Reply, ReplyStore
from meap.evals.task import Example, Judging, Response
from meap.show.progress import counting

__all__ = ["REPLIES_NAME", "describe_judging", "judge_facts", "judge_summaries", "open_judging", "summary_of"]

REPLIES_NAME = "judge.jsonl"
_CHARACTERS_PER_TOKEN = 4
_REPLY_TOKENS = 150
_ABOUT = ("reply", "judge", "date", "dollars")


def open_judging(config: EvaluationConfig, out_dir: Path) -> Judging:
    """A function that judges summaries as configured, with its replies stored in `out_dir`.

    Raises:
        ConfigError: A judge is configured, but its key is missing.
    """
    endpoint = Endpoint(config.judge) if config.judge.model else None
    return partial(
        judge_summaries, endpoint=endpoint, path=out_dir / REPLIES_NAME, protocols=config.hallucination.protocols
    )


def judge_summaries(
    responses: Sequence[Response], *, endpoint: Endpoint | None, path: Path, protocols: Sequence[str]
) -> list[Response]:
    """For each response and protocol the score, and the judge's reply, name, date and cost.

    An empty summary is wrong without asking. A reply without a verdict gives no score. Without a judge all columns are
    None.

    Args:
        responses: With `document`, `answers` (the reference first), and `text` or `prediction`.
        endpoint: The judge; None: no judge.
        path: File of replies.
        protocols: Keys of `PROTOCOLS`.

    Raises:
        JudgeError: The judge cannot be reached, or would exceed its budget.
    """
    names = [name for protocol in PROTOCOLS for name in _columns(protocol)]
    judged: list[Response] = [dict.fromkeys(names) for _ in responses]
    if endpoint is None:
        return judged
    prompts: dict[tuple[int, str], str] = {}
    for place, response in enumerate(responses):
        summary = summary_of(response)
        for protocol in protocols:
            if not summary:
                judged[place][protocol] = None if response["too_long"] else 0.0
            else:
                prompts[place, protocol] = PROTOCOLS[protocol].prompt(
                    response["document"], response["answers"][0], summary
                )
    with counting("judge", unit="questions") as progress:
        replies = endpoint.ask(prompts.values(), ReplyStore(path), progress=progress)
    for (place, protocol), prompt in prompts.items():
        judged[place] |= _columns_of(protocol, replies[prompt])
    return judged


def describe_judging(examples: Sequence[Example], config: EvaluationConfig) -> str:
    """The number of questions for the judge and their cost, estimated before any summaries exist."""
    judge, summary = config.judge, "x" * _CHARACTERS_PER_TOKEN * config.hallucination.max_new_tokens
    if judge.model is None:
        return "no judge: judge.model is not set"
    endpoint = Endpoint(judge)
    questions = [
        PROTOCOLS[name].prompt(example.facts["document"], example.answers[0], summary)
        for example in examples
        for name in config.hallucination.protocols
    ]
    sent = sum(len(each) for each in questions) // _CHARACTERS_PER_TOKEN
    about = endpoint.price(sent, _REPLY_TOKENS * len(questions))
    return (
        f"{len(questions):,} questions to {judge.model} at most, about {about:.2f} dollars at {_CHARACTERS_PER_TOKEN} "
        f"characters a token and {_REPLY_TOKENS} tokens a reply; never more than judge.max_cost={judge.max_cost:g}"
    )


def judge_facts(responses: Sequence[Response]) -> dict[str, Any] | None:
    """The judges, dates and cost, and the number of replies without a verdict by protocol; None without a judge."""
    replies = {
        name: [response for response in responses if response[f"{name}_reply"] is not None] for name in PROTOCOLS
    }
    # An empty summary has a score without a reply.
    asked = [name for name in PROTOCOLS if replies[name] or any(response[name] is not None for response in responses)]
    if not asked:
        return None
    about = [
        {name: response[f"{protocol}_{name}"] for name in _ABOUT}
        for protocol in asked
        for response in replies[protocol]
    ]
    dates = [each["date"] for each in about]
    return {
        "models": sorted({each["judge"] for each in about}),
        "first": min(dates, default=None),
        "last": max(dates, default=None),
        "dollars": round(sum(each["dollars"] for each in about), 6),
        "replies": len(about),
        "without_verdict": {name: sum(response[name] is None for response in replies[name]) for name in asked},
    }


def summary_of(response: Response) -> str:
    """The summary in a response: the model's text, or the prediction of the data set."""
    return (response.get("prediction") or response["text"]).strip()


def _columns(protocol: str) -> list[str]:
    return [protocol, *(f"{protocol}_{name}" for name in _ABOUT)]


def _columns_of(protocol: str, reply: Reply) -> Response:
    values = (PROTOCOLS[protocol].read(reply.text), reply.text, reply.model, reply.date, reply.dollars)
    return dict(zip(_columns(protocol), values, strict=True))
