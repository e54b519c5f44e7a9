"""The whole configuration of the recipes that train and export: one yaml serves all of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from meap.config.data import DataConfig, TokenizerConfig
from meap.config.loggers import LoggersConfig
from meap.config.lora import LoraConfig
from meap.config.masking import MaskingConfig, SftConfig
from meap.config.model import ModelConfig
from meap.config.sharding import spreading_modes
from meap.config.training import (
    CheckpointConfig,
    ExportConfig,
    OptimizerConfig,
    RunConfig,
    SchedulerConfig,
    TrainConfig,
)
from meap.errors import ConfigError

__all__ = ["RecipeConfig"]


@dataclass(frozen=True)
class RecipeConfig:
    """Sections in the order in which data flows."""

    run: RunConfig = field(default_factory=RunConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    loggers: LoggersConfig = field(default_factory=LoggersConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    def __post_init__(self) -> None:
        if self.checkpoint.state_dict == "sharded" and not self.train.sharding_mode.spreads_weights:
            raise ConfigError(
                f"checkpoint.state_dict=sharded needs sharded state, but train.sharding={self.train.sharding}: set "
                f"train.sharding={spreading_modes()}, or checkpoint.state_dict=full"
            )
        if self.lora.rank and self.model.base is None:
            raise ConfigError(
                f"lora.rank={self.lora.rank} adapts a finished model, but model.base is not set: set it, or "
                "lora.rank=0 to train fresh weights"
            )
