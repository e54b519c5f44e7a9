"""The whole configuration of a training run and its export: one yaml serves both."""

from __future__ import annotations

from dataclasses import dataclass, field

from meap.config.sections import (
    CheckpointConfig,
    DataConfig,
    ExportConfig,
    MaskingConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SchedulerConfig,
    SftConfig,
    TokenizerConfig,
    TrainConfig,
)

__all__ = ["TrainingConfig"]


@dataclass(frozen=True)
class TrainingConfig:
    """Sections in the order in which data flows."""

    run: RunConfig = field(default_factory=RunConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
