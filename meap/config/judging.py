"""Sections of evaluations that another language model judges."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from meap.config.checks import require_at_least, require_one_of, require_plain_address
from meap.errors import ConfigError

__all__ = ["HallucinationConfig", "JudgeConfig"]


@dataclass(frozen=True)
class JudgeConfig:
    """The language model that judges responses, behind any OpenAI-compatible endpoint."""

    model: str | None = None
    """Name of the model at the endpoint, such as deepseek-chat. Unset: no judge, and no judged scores."""
    base_url: str = "https://api.openai.com/v1"
    """URL of the endpoint, version included."""
    key_variable: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the API key, which is never stored. null: the endpoint needs none."""
    input_price: float | None = None
    """Dollars per million input tokens; 0 if they are free. Required with `model`."""
    output_price: float | None = None
    """Dollars per million output tokens; 0 if they are free. Required with `model`."""
    max_cost: float = 5.0
    """Budget in dollars for all judging in a folder of results, earlier evaluations included: no request that could
    exceed it is sent."""
    parallel: int = 8
    """Concurrent requests."""
    max_new_tokens: int = 1024
    """Most tokens of a judgement, its explanation included."""
    timeout: float = 120.0
    """Seconds without data from the server after which a request fails; above 0."""
    longest: float = 600.0
    """Seconds after which a request fails that is still under way, from connecting to the end of the reply; at least
    `timeout`."""
    retries: int = 6
    """Retries of a request if the server is busy, fails or is silent."""
    backoff: float = 1.0
    """Seconds before the first retry, doubled before each further one, up to a minute."""

    def __post_init__(self) -> None:
        require_plain_address("judge.base_url", self.base_url)
        require_at_least("judge.max_cost", self.max_cost, 0)
        require_at_least("judge.parallel", self.parallel, 1)
        require_at_least("judge.max_new_tokens", self.max_new_tokens, 1)
        require_at_least("judge.retries", self.retries, 0)
        require_at_least("judge.backoff", self.backoff, 0)
        if not self.timeout > 0:
            raise ConfigError(f"judge.timeout={self.timeout} is too small: it must be above 0 seconds")
        require_at_least("judge.longest", self.longest, self.timeout)
        for key, price in (("input_price", self.input_price), ("output_price", self.output_price)):
            if price is not None:
                require_at_least(f"judge.{key}", price, 0)
            elif self.model is not None:
                raise ConfigError(
                    f"judge.{key} is not set, so judge.max_cost cannot be enforced: give {self.model}'s dollars per "
                    "million tokens, or 0 if it is free"
                )


@dataclass(frozen=True)
class HallucinationConfig:
    """Summaries of articles, judged for statements that the article does not support."""

    xsum: str | None = None
    """XSum: file of JSON lines or parquet with document and reference (or summary), or a name on the Hugging Face hub,
    name@revision for one of its revisions. If none of the three sets is given, the task is skipped."""
    multi_news: str | None = None
    """MultiNews, likewise."""
    wikisum: str | None = None
    """WikiSum, likewise; its column article is the document."""
    split: str = "test"
    """Split of a data set on the hub."""
    examples: int = 100
    """Articles to draw from each set; all if it has fewer."""
    document_tokens: int = 3072
    """Most tokens of an article in a prompt; the number of truncated articles is reported."""
    max_new_tokens: int = 256
    """Most tokens of a summary."""
    template: str = "plain"
    """`plain`: the instruction and the article; `alpaca`: both in Alpaca's prompt."""
    protocols: tuple[str, ...] = ("similarity", "faithfulness")
    """Questions to the judge: is the summary similar to the reference (`similarity`, the paper's), and does the article
    support it (`faithfulness`)?"""

    def __post_init__(self) -> None:
        require_at_least("hallucination.examples", self.examples, 1)
        require_at_least("hallucination.document_tokens", self.document_tokens, 1)
        require_at_least("hallucination.max_new_tokens", self.max_new_tokens, 1)
        require_one_of("hallucination.template", self.template, ("plain", "alpaca"))
        _require_protocols(self.protocols)


def _require_protocols(protocols: Collection[str]) -> None:
    if not protocols:
        raise ConfigError("hallucination.protocols is empty: name similarity, faithfulness or both")
    for each in protocols:
        require_one_of("hallucination.protocols", each, ("similarity", "faithfulness"))
