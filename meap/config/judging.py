"""Sections of evaluations that another language model judges."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from meap.config.checks import require_at_least, require_one_of, require_plain_address
from meap.errors import ConfigError

__all__ = ["HallucinationConfig", "JudgeConfig"]


@dataclass(frozen=True)
class JudgeConfig:
    """A language model that judges what the evaluated one says, behind any OpenAI-compatible endpoint."""

    model: str | None = None
    """What the endpoint calls it, such as deepseek-chat. Unset: nobody is asked, and judged scores are left out."""
    base_url: str = "https://api.openai.com/v1"
    """Address of the endpoint, version included."""
    key_variable: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key, which is stored nowhere; null: the endpoint wants none."""
    input_price: float | None = None
    """Dollars per million tokens that are sent; 0 where they cost nothing. To be given with `model`."""
    output_price: float | None = None
    """Dollars per million tokens that come back; 0 where they cost nothing. To be given with `model`."""
    max_cost: float = 5.0
    """Dollars at most for all judging in a folder of results, earlier runs included: no request is sent that could
    exceed them."""
    parallel: int = 8
    """Requests at the same time."""
    max_new_tokens: int = 1024
    """Tokens of a judgement at most, its explanation included."""
    timeout: float = 120.0
    """Seconds to wait for a server that says nothing; above 0."""
    retries: int = 6
    """How often a request is repeated where the server is busy, fails or is silent."""
    backoff: float = 1.0
    """Seconds before the first repetition; every further one waits twice as long, up to a minute."""

    def __post_init__(self) -> None:
        require_plain_address("judge.base_url", self.base_url)
        require_at_least("judge.max_cost", self.max_cost, 0)
        require_at_least("judge.parallel", self.parallel, 1)
        require_at_least("judge.max_new_tokens", self.max_new_tokens, 1)
        require_at_least("judge.retries", self.retries, 0)
        require_at_least("judge.backoff", self.backoff, 0)
        if not self.timeout > 0:
            raise ConfigError(f"judge.timeout={self.timeout} is too small: it must be above 0 seconds")
        for key, price in (("input_price", self.input_price), ("output_price", self.output_price)):
            if price is not None:
                require_at_least(f"judge.{key}", price, 0)
            elif self.model is not None:
                raise ConfigError(
                    f"judge.{key} is not set, so judge.max_cost could not be kept: give {self.model}'s dollars per "
                    "million tokens, or 0 where it costs nothing"
                )


@dataclass(frozen=True)
class HallucinationConfig:
    """Summaries of articles, and whether they say what is not there."""

    xsum: str | None = None
    """XSum: file of JSON lines or parquet with document and reference (or summary), or a name on the Hugging Face hub,
    name@revision for one of its revisions. Without any of the three sets the task is skipped."""
    multi_news: str | None = None
    """MultiNews, likewise."""
    wikisum: str | None = None
    """WikiSum, likewise; its column article is the document."""
    split: str = "test"
    """Split of a set on the hub."""
    examples: int = 100
    """Articles that are drawn from each set; all of one that has fewer."""
    document_tokens: int = 3072
    """Tokens of an article that the model is shown at most; how many are cut is reported."""
    max_new_tokens: int = 256
    """Tokens of a summary at most."""
    template: str = "plain"
    """`plain`: the instruction, and the article; `alpaca`: both in the frame that Alpaca-tuned models know."""
    protocols: tuple[str, ...] = ("similarity", "faithfulness")
    """What the judge is asked: whether a summary is like the reference (`similarity`, the paper's), and whether the
    article supports it (`faithfulness`)."""

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
