"""The configuration of an evaluation: the model, the benchmark tasks, and a section per task."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from meap.config.checks import require_at_least, require_folder_name, require_one_of
from meap.config.data import TokenizerConfig
from meap.config.judging import HallucinationConfig, JudgeConfig
from meap.errors import ConfigError

__all__ = [
    "AncestralTraceConfig",
    "AttentionDecayConfig",
    "AttentionSegmentsConfig",
    "ChoiceConfig",
    "CommonsenseConfig",
    "EvaluationConfig",
    "HaystackConfig",
    "KeyRetrievalConfig",
    "KvRetrievalConfig",
    "MultiNeedleConfig",
    "MultidocQaConfig",
    "NeedleFuConfig",
    "NeedleMagicConfig",
    "PerplexityConfig",
    "RecordRetrievalConfig",
]


@dataclass(frozen=True)
class PerplexityConfig:
    """Held-out loss."""

    remote: tuple[str, ...] = ()
    """Folders or URLs that data preparation wrote; their validation rows are scored. Empty: the task is skipped."""
    rows: int = 256
    """Rows to score; 0 scores all."""

    def __post_init__(self) -> None:
        require_at_least("perplexity.rows", self.rows, 0)


@dataclass(frozen=True)
class KeyRetrievalConfig:
    """Facts looked up in a generated passage."""

    examples: int = 200
    """Prompts."""
    facts: int = 4
    """Facts per prompt; guessing scores 1 / facts. At least 2."""
    sentences: int = 8
    """Filler sentences per prompt."""

    def __post_init__(self) -> None:
        require_at_least("key_retrieval.examples", self.examples, 1)
        require_at_least("key_retrieval.facts", self.facts, 2)
        require_at_least("key_retrieval.sentences", self.sentences, 1)


@dataclass(frozen=True)
class RecordRetrievalConfig:
    """A field of a generated record, looked up in it."""

    sentences: tuple[int, ...] = (2, 8)
    """Sentences of prose in a prompt, one row of the table for each number."""
    examples: int = 200
    """Prompts for each."""

    def __post_init__(self) -> None:
        _require_list("record_retrieval.sentences", self.sentences, 0)
        require_at_least("record_retrieval.examples", self.examples, 1)


@dataclass(frozen=True)
class ChoiceConfig:
    """Prompts of one's own, whose candidates are ranked."""

    source: str | None = None
    """File of JSON lines with prompt, candidates, answer, and where wanted group, a row of the table, and question,
    which prompts share that are not independent; plain or gzipped. Unset: the task is skipped."""


@dataclass(frozen=True)
class HaystackConfig:
    """The text that needles are put into."""

    dir: str | None = None
    """Folder of .txt files, read in the order of their names and repeated to length. Unset: generated prose."""


@dataclass(frozen=True)
class NeedleFuConfig:
    """Needle in a haystack as Fu et al. (2024) ask base models: a sentence in a book."""

    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384, 24576, 32768)
    """Lengths in tokens, prompt, answer and `buffer` included; more than `buffer` and the needle."""
    depths: int = 11
    """Number of depths of the needle, evenly from 0 % to 100 % of the haystack; at least 2."""
    trials: int = 1
    """Prompts per length and depth, each starting at a different sentence of the haystack."""
    buffer: int = 200
    """Tokens of each length reserved for the rest of the prompt and for the answer."""
    max_new_tokens: int = 50
    """Most tokens to generate."""
    needle: str = "\nThe best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.\n"
    """Sentence to hide in the haystack."""
    question: str = "What is the best thing to do in San Francisco?"
    """Question that the prompt asks."""
    answer: str = "eat a sandwich and sit in Dolores Park on a sunny day"
    """Expected answer."""

    def __post_init__(self) -> None:
        _require_grid("needle_fu", self.lengths, self.depths, self.trials, self.buffer)
        require_at_least("needle_fu.max_new_tokens", self.max_new_tokens, 1)


@dataclass(frozen=True)
class NeedleMagicConfig:
    """Needle in a haystack as Ye et al. (2024) ask: the magic number of a city."""

    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384, 24576, 32768)
    """Lengths in tokens, prompt, answer and `buffer` included."""
    depths: int = 11
    """Number of depths of the asked needle, evenly from 0 % to 100 % of the haystack; at least 2."""
    trials: int = 10
    """Prompts per length and depth, each with a different city, number and start of the haystack."""
    needles: int = 1
    """Cities with a number (N), in [1, 60]; those not asked for are at random depths."""
    asked: int = 1
    """Cities that a prompt asks for at once (R), in [1, `needles`]; the first is at the depth, the others at random."""
    buffer: int = 150
    """Tokens of each length reserved for the rest of the prompt, the needles and the answer."""
    max_new_tokens: int = 20
    """Most tokens to generate for each city that is asked for."""

    def __post_init__(self) -> None:
        _require_grid("needle_magic", self.lengths, self.depths, self.trials, self.buffer)
        require_at_least("needle_magic.max_new_tokens", self.max_new_tokens, 1)
        if not 1 <= self.needles <= 60:
            raise ConfigError(f"needle_magic.needles={self.needles} is out of range: it must be in [1, 60]")
        if not 1 <= self.asked <= self.needles:
            raise ConfigError(
                f"needle_magic.asked={self.asked} is out of range: it must be in [1, needle_magic.needles="
                f"{self.needles}]"
            )


@dataclass(frozen=True)
class MultiNeedleConfig:
    """Questions that need several sentences of a haystack: multi-needle reasoning of NeedleBench (2024)."""

    source: str | None = None
    """File of questions such as NeedleBench's multi_needle_reasoning_en.json, JSON or JSON lines. Unset: generated."""
    needles: tuple[int, ...] = (2, 3, 4, 5)
    """Sentences that a question needs; at least 1 each."""
    lengths: tuple[int, ...] = (1000, 2000, 3000, 4000)
    """Lengths in tokens, prompt, answer and `buffer` included; more than `buffer` and the needles."""
    depths: tuple[int, ...] = (0, 10, 21, 31, 42, 52, 63, 73, 84, 94, 100)
    """Depths of the first needle in percent of the haystack, in [0, 100]; each further needle is a tenth deeper."""
    trials: int = 10
    """Prompts per number of needles, length and depth, each with a different question and start of the haystack."""
    buffer: int = 600
    """Tokens of each length reserved for the rest of the prompt and for the answer."""
    max_new_tokens: int = 100
    """Most tokens to generate."""

    def __post_init__(self) -> None:
        _require_list("multi_needle.needles", self.needles, 1)
        _require_list("multi_needle.depths", self.depths, 0)
        if max(self.depths) > 100:
            raise ConfigError(
                f"multi_needle.depths={list(self.depths)} is out of range: depths are percent, in [0, 100]"
            )
        _require_room("multi_needle", self.lengths, self.trials, self.buffer)
        require_at_least("multi_needle.max_new_tokens", self.max_new_tokens, 1)


@dataclass(frozen=True)
class AncestralTraceConfig:
    """The eldest of a family from its shuffled relations: the ancestral trace challenge of NeedleBench."""

    relations: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Relations per family; guessing scores 1 / relations. In [2, 512] each."""
    trials: int = 10
    """Families per number of relations."""
    notes: bool = True
    """Whether prompts have the introduction, examples and notes of the source, about 450 tokens."""
    max_new_tokens: int = 24
    """Most tokens to generate; a name takes fewer."""

    def __post_init__(self) -> None:
        _require_list("ancestral_trace.relations", self.relations, 2)
        if max(self.relations) > 512:
            raise ConfigError(
                f"ancestral_trace.relations={list(self.relations)} is out of range: at most 512 relations"
            )
        require_at_least("ancestral_trace.trials", self.trials, 1)
        require_at_least("ancestral_trace.max_new_tokens", self.max_new_tokens, 1)


@dataclass(frozen=True)
class MultidocQaConfig:
    """Questions over many documents, one of which holds the answer: lost in the middle (Liu et al., 2024)."""

    source: str | None = None
    """Folder of the published files (nq-open-20_total_documents_gold_at_4.jsonl.gz and so on), or the published
    nq-open-oracle.jsonl.gz, whose other passages become the distractors. Unset: generated passages."""
    documents: tuple[int, ...] = (10, 20)
    """Documents per prompt; at least 2 each."""
    positions: tuple[int, ...] = (1, 5, 10, 15, 20)
    """Positions of the document with the answer, from 1; those beyond `documents` are skipped."""
    questions: int = 0
    """Number of questions, from the first; 0 asks all (200 if generated)."""
    closed_book: bool = True
    """Whether the questions are also asked without documents: the floor."""
    oracle: bool = True
    """Whether the questions are also asked with the answering document alone: the ceiling, as in Table 9."""
    max_new_tokens: int = 100
    """Most tokens to generate; an answer ends with its line."""

    def __post_init__(self) -> None:
        _require_list("multidoc_qa.documents", self.documents, 2)
        _require_list("multidoc_qa.positions", self.positions, 1)
        require_at_least("multidoc_qa.questions", self.questions, 0)
        require_at_least("multidoc_qa.max_new_tokens", self.max_new_tokens, 1)
        if min(self.positions) > min(self.documents):
            raise ConfigError(
                f"multidoc_qa.positions={list(self.positions)} are all beyond {min(self.documents)} documents: "
                f"add one of at most {min(self.documents)}"
            )


@dataclass(frozen=True)
class KvRetrievalConfig:
    """The value of a key in a JSON object: lost in the middle (Liu et al., 2024)."""

    source: str | None = None
    """Published file (kv-retrieval-140_keys.jsonl.gz) with as many keys as `keys` says. Unset: generated."""
    keys: tuple[int, ...] = (75, 140)
    """Keys per object; at least 2 each."""
    positions: int = 5
    """Number of positions of the asked key, evenly from the first to the last; at least 2."""
    examples: int = 500
    """Objects per number of keys, each asked at every position."""
    hex_digits: int = 32
    """Digits of keys and values: 32 are UUIDs as published; fewer, in [4, 31], fit models of short context."""
    max_new_tokens: int = 100
    """Most tokens to generate."""

    def __post_init__(self) -> None:
        _require_list("kv_retrieval.keys", self.keys, 2)
        require_at_least("kv_retrieval.positions", self.positions, 2)
        require_at_least("kv_retrieval.examples", self.examples, 1)
        require_at_least("kv_retrieval.max_new_tokens", self.max_new_tokens, 1)
        if not 4 <= self.hex_digits <= 32:
            raise ConfigError(f"kv_retrieval.hex_digits={self.hex_digits} is out of range: it must be in [4, 32]")
        if self.source is not None and len(self.keys) > 1:
            raise ConfigError(
                f"kv_retrieval.keys={list(self.keys)} cannot all be in kv_retrieval.source: give the one number of "
                "keys that the file has, or leave the source unset"
            )


@dataclass(frozen=True)
class CommonsenseConfig:
    """Zero-shot multiple choice by lm-evaluation-harness."""

    tasks: tuple[str, ...] = (*("arc_challenge", "arc_easy", "boolq", "piqa", "hellaswag", "winogrande", "openbookqa"),)
    """Names of the harness's multiple-choice tasks."""
    data_dir: str | None = None
    """Folder with a <task>.jsonl for each, in the columns of the task's own data set. Unset: the Hugging Face hub."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("commonsense.tasks is empty: name at least one, or leave commonsense out of tasks")
        for name in self.tasks:
            require_folder_name("commonsense.tasks", name)


@dataclass(frozen=True)
class AttentionDecayConfig:
    """Attention at masked positions: Table 10."""

    lengths: tuple[int, ...] = (1024, 4096)
    """Lengths of sequences, which are the first tokens of held-out rows of `perplexity.remote`; at least 4."""
    rows: int = 500
    """Number of held-out rows, from the first."""
    mask_ratio: float = 0.15
    """Share of a sequence's tokens that are masked, exactly; in (0, 0.5]."""

    def __post_init__(self) -> None:
        _require_list("attention_decay.lengths", self.lengths, 4)
        require_at_least("attention_decay.rows", self.rows, 1)
        if not 0 < self.mask_ratio <= 0.5:
            raise ConfigError(
                f"attention_decay.mask_ratio={self.mask_ratio} is out of range: it must be in (0, 0.5], to leave "
                "masked and other tokens; the paper uses 0.15"
            )


@dataclass(frozen=True)
class AttentionSegmentsConfig:
    """Attention by segment of a passage with an answer and a question: Figure 6, Tables 16 to 18."""

    source: str | None = None
    """File of JSON lines with context_before, answer, context_after and query, such as the paper's four examples.
    Unset: generated passages."""
    examples: int = 200
    """Generated passages."""
    facts: int = 4
    """Facts that a generated passage states; one of them is asked for. At least 1."""
    sentences: int = 8
    """Filler sentences of a generated passage; at least 2, to have text on both sides of the answer."""

    def __post_init__(self) -> None:
        require_at_least("attention_segments.examples", self.examples, 1)
        require_at_least("attention_segments.facts", self.facts, 1)
        require_at_least("attention_segments.sentences", self.sentences, 2)


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured on which model."""

    model: str | None = None
    """Hugging Face folder, or name on the hub, of any causal language model; or the folder of an exported run."""
    tasks: str = "all"
    """Names of benchmark tasks, separated by commas, or `all`."""
    out_dir: str | None = None
    """Folder for results.json, responses and pictures. Unset: eval/ in the run's folder for a model exported there,
    runs/eval/<model> for another, runs/eval/compare for a comparison."""
    compare: str = ""
    """Two folders of results, separated by a comma: prints them side by side and evaluates nothing."""
    batch_size: int = 16
    """Most prompts or rows per forward pass."""
    batch_tokens: int = 32768
    """Most tokens per forward pass of more than one prompt or row."""
    prefill_chunk: int = 8192
    """Tokens of a long prompt per forward pass."""
    add_bos: bool = True
    """Whether every prompt begins with BOS, as documents of data preparation do, where the tokenizer has one."""
    limit: int = 0
    """Most examples per task, spread evenly over it; results are then marked partial. 0 asks all."""
    too_long: str = "refuse"
    """Examples longer than the model's context: `refuse` to start, or score them as `wrong`."""
    seed: int = 1234
    """Seed of all random draws."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    haystack: HaystackConfig = field(default_factory=HaystackConfig)
    perplexity: PerplexityConfig = field(default_factory=PerplexityConfig)
    key_retrieval: KeyRetrievalConfig = field(default_factory=KeyRetrievalConfig)
    record_retrieval: RecordRetrievalConfig = field(default_factory=RecordRetrievalConfig)
    choice: ChoiceConfig = field(default_factory=ChoiceConfig)
    needle_fu: NeedleFuConfig = field(default_factory=NeedleFuConfig)
    needle_magic: NeedleMagicConfig = field(default_factory=NeedleMagicConfig)
    multi_needle: MultiNeedleConfig = field(default_factory=MultiNeedleConfig)
    ancestral_trace: AncestralTraceConfig = field(default_factory=AncestralTraceConfig)
    multidoc_qa: MultidocQaConfig = field(default_factory=MultidocQaConfig)
    kv_retrieval: KvRetrievalConfig = field(default_factory=KvRetrievalConfig)
    hallucination: HallucinationConfig = field(default_factory=HallucinationConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    commonsense: CommonsenseConfig = field(default_factory=CommonsenseConfig)
    attention_decay: AttentionDecayConfig = field(default_factory=AttentionDecayConfig)
    attention_segments: AttentionSegmentsConfig = field(default_factory=AttentionSegmentsConfig)

    def __post_init__(self) -> None:
        require_at_least("batch_size", self.batch_size, 1)
        require_at_least("batch_tokens", self.batch_tokens, 1)
        require_at_least("prefill_chunk", self.prefill_chunk, 1)
        require_at_least("limit", self.limit, 0)
        require_at_least("seed", self.seed, 0)
        require_one_of("too_long", self.too_long, ("refuse", "wrong"))

    def require_model(self) -> str:
        """The folder or name of the model.

        Raises:
            ConfigError: None is given.
        """
        if self.model is None:
            raise ConfigError("model is not set: give model=<Hugging Face folder, folder of a run, or hub name>")
        return self.model


def _require_list(key: str, values: Collection[int], bound: int) -> None:
    if not values:
        raise ConfigError(f"{key} is empty: give at least one number")
    for value in values:
        require_at_least(key, value, bound)
    if len(set(values)) < len(values):
        raise ConfigError(f"{key}={list(values)} has duplicates: give each number once")


def _require_grid(section: str, lengths: Collection[int], depths: int, trials: int, buffer: int) -> None:
    require_at_least(f"{section}.depths", depths, 2)
    _require_room(section, lengths, trials, buffer)


def _require_room(section: str, lengths: Collection[int], trials: int, buffer: int) -> None:
    _require_list(f"{section}.lengths", lengths, 1)
    require_at_least(f"{section}.trials", trials, 1)
    require_at_least(f"{section}.buffer", buffer, 0)
    if min(lengths) <= buffer:
        raise ConfigError(
            f"{section}.lengths={list(lengths)} leave no room beside {section}.buffer={buffer}: "
            "give longer ones, or a smaller buffer"
        )
