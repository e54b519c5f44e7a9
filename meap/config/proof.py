"""The configuration of the proof at small scale: masked against plain training on one generated corpus."""

from __future__ import annotations

from dataclasses import dataclass, field

from meap.config.checks import require_at_least
from meap.errors import ConfigError

__all__ = ["ProofConfig", "ProofCorpusConfig"]

_FEWEST_SEEDS = 2


@dataclass(frozen=True)
class ProofCorpusConfig:
    """Generated records, and the vocabulary made from them."""

    seed: int = 0
    """Seed of the corpus."""
    megabytes: float = 20.0
    """Text, in millions of characters; held-out rows included."""
    vocab_size: int = 1280
    """Ids of the byte-level BPE that is trained on it."""

    def __post_init__(self) -> None:
        require_at_least("corpus.seed", self.seed, 0)


@dataclass(frozen=True)
class ProofConfig:
    """Two arms, which differ in the ratio alone, over several seeds."""

    out_dir: str = "runs/proof"
    """Folder for corpus, shards, runs, table and picture."""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    """Seeds of weights, order of rows and masks, at least 2; each arm trains once per seed. The lowest possible p-value
    is 2 / 2^seeds, so significance at 5 % needs 6."""
    ratio: float = 0.15
    """Share of input tokens that the masked arm replaces; above 0 and below 1."""
    parallel: int = 2
    """Concurrent runs."""
    corpus: ProofCorpusConfig = field(default_factory=ProofCorpusConfig)
    training: str = "experiments/proof/train_cpu.yaml"
    """Yaml of every run; the proof sets name, folder, seed, ratio and data."""
    evaluation: str = "experiments/proof/eval_cpu.yaml"
    """Yaml of every evaluation; the proof sets model, held-out rows and passages."""

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < max(_FEWEST_SEEDS, len(self.seeds)):
            raise ConfigError(f"seeds={list(self.seeds)}: give at least {_FEWEST_SEEDS}, each once")
        if not 0 < self.ratio < 1:
            raise ConfigError(
                f"ratio={self.ratio} is out of range: it must be above 0 and below 1; the paper's is 0.15"
            )
        require_at_least("parallel", self.parallel, 1)
