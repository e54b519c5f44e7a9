"""Configuration: one frozen dataclass per yaml section, the same overrides for every entry point.

    defaults of the dataclasses  <  base yaml  <  yaml  <  section.key=value on the command line

A section ``x`` of a yaml is the dataclass ``XConfig``.
"""

from meap.config.command import run_command
from meap.config.data import DataConfig, StreamConfig, TokenizerConfig
from meap.config.evaluation import (
    CommonsenseConfig,
    EvaluationConfig,
    HaystackConfig,
    PerplexityConfig,
)
from meap.config.judging import HallucinationConfig, JudgeConfig
from meap.config.loading import flatten, from_values, load_config, load_resolved, save_config, to_values, to_yaml
from meap.config.loggers import LoggersConfig
from meap.config.lora import LoraConfig
from meap.config.masking import MaskingConfig, SftConfig
from meap.config.model import ModelConfig
from meap.config.prep import LitpkdsPrepConfig, PrepConfig, SftPrepConfig, TextTokenizerConfig
from meap.config.recipe import RecipeConfig
from meap.config.removal import DedupConfig, FiltersConfig
from meap.config.roles import Role, role_of
from meap.config.training import (
    CheckpointConfig,
    ExportConfig,
    OptimizerConfig,
    RunConfig,
    SchedulerConfig,
    TrainConfig,
)

__all__ = [
    "CheckpointConfig",
    "CommonsenseConfig",
    "DataConfig",
    "DedupConfig",
    "EvaluationConfig",
    "ExportConfig",
    "FiltersConfig",
    "HallucinationConfig",
    "HaystackConfig",
    "JudgeConfig",
    "LitpkdsPrepConfig",
    "LoggersConfig",
    "LoraConfig",
    "MaskingConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PerplexityConfig",
    "PrepConfig",
    "RecipeConfig",
    "Role",
    "RunConfig",
    "SchedulerConfig",
    "SftConfig",
    "SftPrepConfig",
    "StreamConfig",
    "TextTokenizerConfig",
    "TokenizerConfig",
    "TrainConfig",
    "flatten",
    "from_values",
    "load_config",
    "load_resolved",
    "role_of",
    "run_command",
    "save_config",
    "to_values",
    "to_yaml",
]
