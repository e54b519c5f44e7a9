"""How a run trains and what it keeps: sections `run`, `optimizer`, `scheduler`, `train`, `checkpoint` and `export`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from meap.config.checks import (
    require_at_least,
    require_duration,
    require_folder_name,
    require_interval,
    require_one_of,
    require_ratio,
    require_share_or_duration,
)
from meap.config.sharding import SHARDINGS, Sharding
from meap.errors import ConfigError

__all__ = ["CheckpointConfig", "ExportConfig", "OptimizerConfig", "RunConfig", "SchedulerConfig", "TrainConfig"]

_CHECKPOINT = re.compile(r"(?:^|/)ba(\d+)(?:\.pt)?/?$")
_FILE_SIZE = re.compile(r"[1-9]\d*(\.\d+)?[KMGT]B")


@dataclass(frozen=True)
class RunConfig:
    """Identity of the run."""

    name: str = "meap"
    """Name of the run and of its folder, at most 200 bytes, without /. With a yaml: its name, without `.yaml`."""
    dir: str = "runs/${run.name}"
    """Local folder that holds everything the run writes."""
    seed: int = 17
    """Seed of the weights, of the sample order and of the masks; 0 to 2**32 - 1."""

    def __post_init__(self) -> None:
        require_folder_name("run.name", self.name)
        if not 0 <= self.seed < 1 << 32:
            raise ConfigError(f"run.seed={self.seed} is out of range: it must be in [0, {(1 << 32) - 1}]")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW. Weight decay applies to matrices, the embedding among them."""

    lr: float = 4e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the two moments, each in [0, 1)."""
    eps: float = 1e-8
    """What AdamW adds to the root of the second moment."""
    weight_decay: float = 0.05
    """Decoupled weight decay, at least 0."""
    decay_norms: bool = False
    """Whether vectors, which are the weights of norms and biases, decay as matrices do (official code)."""
    grad_clip_norm: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ConfigError(f"optimizer.lr={self.lr} must be more than 0")
        for beta in self.betas:
            require_ratio("optimizer.betas", beta, remedy="The paper uses 0.9 and 0.95.")
        require_at_least("optimizer.weight_decay", self.weight_decay, 0)
        require_at_least("optimizer.grad_clip_norm", self.grad_clip_norm, 0)


@dataclass(frozen=True)
class SchedulerConfig:
    """Linear warm-up, then a schedule of the learning rate."""

    schedule: str = "cosine"
    """After the warm-up: `cosine`: falls to final_ratio over all steps (the paper); `constant`: stays at the peak;
    `wsd`: stays there and falls to final_ratio over the last steps. In a branch (train.branch_from), over its own."""
    decay_fraction: float = 0.1
    """Share of the run's steps in which the rate falls, in [0, 1]; of a branch, share of its own. Only read where
    schedule is `wsd`; 0 is `constant`."""
    decay_shape: str = "linear"
    """How the rate falls where schedule is `wsd`: `linear`, or `1-sqrt`: 1 minus the square root of the share done."""

    warmup_ratio: float = 0.1
    """Share of the training steps in which the learning rate rises from 0 to its peak, in [0, 1)."""
    warmup_duration: str | None = None
    """The same as a duration: 2000ba, 2000000000tok, 512000sp, 1ep, 0.1dur. Unset: warmup_ratio, else not read."""
    final_ratio: float = 0.1
    """What the learning rate falls to, as a share of the peak, in [0, 1): the last step is one short of it."""
    lead: float | None = None
    """Repeats the official code, where step k, counted from 0, has the schedule's rate at k + lead: 1 - 1/G with G
    micro-batches per device. Unset: step k of W warm-up steps has (k + 1)/W of the peak; the decay begins after it."""

    @property
    def decay(self) -> tuple[float | None, str]:
        """Share of the steps in which the rate falls, None for all after the warm-up, and along what."""
        shares = {"cosine": (None, "cosine"), "constant": (0.0, "linear")}
        return shares.get(self.schedule, (self.decay_fraction, self.decay_shape))

    def __post_init__(self) -> None:
        require_one_of("scheduler.schedule", self.schedule, ("cosine", "constant", "wsd"))
        require_one_of("scheduler.decay_shape", self.decay_shape, ("linear", "1-sqrt"))
        if not 0.0 <= self.decay_fraction <= 1.0:
            raise ConfigError(
                f"scheduler.decay_fraction={self.decay_fraction} is out of range: it must be in [0, 1]; 0.1 is usual"
            )
        require_ratio("scheduler.warmup_ratio", self.warmup_ratio, remedy="The paper uses 0.1.")
        if self.warmup_duration is not None:
            require_share_or_duration("scheduler.warmup_duration", self.warmup_duration)
        require_ratio("scheduler.final_ratio", self.final_ratio, remedy="The paper uses 0.1.")
        if self.lead is not None:
            require_ratio("scheduler.lead", self.lead, remedy="Leave it unset, unless an official run is repeated.")


@dataclass(frozen=True)
class TrainConfig:
    """Length, batch size, device and speed."""

    max_duration: str = "190000ba"
    """Length of training in batches (`ba`), tokens (`tok`), samples (`sp`) or epochs (`ep`), rounded up to batches."""
    branch_from: str | None = None
    """Checkpoint (`ba<step>.pt` or a folder `ba<step>`, here or in a store) of another run that this one continues, in
    a folder of its own: weights, optimiser and place in the data; max_duration counts from the other's beginning. Must
    be of the part in which the rate is at its peak. `masking`, but for reversed_ratio, and `scheduler`
    may differ."""
    global_batch_size: int = 256
    """Rows per optimiser step over all devices."""
    microbatch_size: int = 8
    """Rows per forward pass on one device; smaller needs less memory and changes nothing else."""
    device: str = "auto"
    """`gpu`, `cpu`, or `auto`: a GPU where there is one."""
    precision: str = "auto"
    """`fp32`, `amp_bf16`, or `auto`: bf16 on a GPU, fp32 on a CPU."""
    log_interval: str = "10ba"
    """How often a line is printed and metrics are logged: 10ba, 1ep, 500sp, 200000tok, or a share of the run such as
    0.01dur; rounded up to whole batches, as all intervals are."""
    sharding: str = "none"
    """FSDP: `none` (every device holds all), `full` (weights, gradients and optimiser sharded, ZeRO-3), `grad_op`
    (FSDP's SHARD_GRAD_OP: the same, with all weights gathered once per step)."""
    activation_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass: less memory, about a third more time."""
    compile: str = "auto"
    """torch.compile for each layer and the loss: `true`, `false`, or `auto`: on a GPU, but not in fine-tuning."""
    loss_chunks: int = 0
    """Chunks in which head and loss are computed: more take less memory; 0 chooses by tokens and vocabulary."""
    eval_interval: str = "1000ba"
    """How often held-out loss is measured: 1000ba, 1ep, 0.1dur, ...; and at the end of training."""
    eval_batches: int = 16
    """Most held-out rows measured each time, in batches of train.global_batch_size rows. A larger split is sampled
    evenly. Each row counts once, on any number of devices. 0 turns held-out loss off."""
    samples: int = 3
    """Held-out prompts that the model answers each time held-out loss is measured: conversations up to their first
    scored answer, or first tokens of rows. In the log, the loggers and samples.jsonl; 0 turns them off."""
    sample_tokens: int = 64
    """Most tokens of such an answer, at least 1; half of the context is the most."""
    dist_timeout: float = 1800.0
    """Seconds after which ranks stop waiting for others; must exceed the upload time of a checkpoint."""
    deterministic: bool = False
    """Whether a GPU uses deterministic kernels only (attention without cuDNN), which are slower; an operation that has
    none ends the run. A CPU always does."""

    def __post_init__(self) -> None:
        if not 0 < self.dist_timeout < math.inf:
            raise ConfigError(
                f"train.dist_timeout={self.dist_timeout} is not allowed: it must be more than 0 seconds, and more than "
                "the upload of a checkpoint takes"
            )
        if self.branch_from is not None and not _CHECKPOINT.search(self.branch_from):
            raise ConfigError(
                f"train.branch_from={self.branch_from} is not a checkpoint: give a file ba<step>.pt or a folder "
                "ba<step>, such as runs/trunk/checkpoints/ba2400.pt"
            )
        require_duration("train.max_duration", self.max_duration)
        require_at_least("train.global_batch_size", self.global_batch_size, 1)
        require_at_least("train.microbatch_size", self.microbatch_size, 1)
        require_at_least("train.eval_batches", self.eval_batches, 0)
        require_at_least("train.samples", self.samples, 0)
        require_at_least("train.sample_tokens", self.sample_tokens, 1)
        require_one_of("train.device", self.device, ("auto", "gpu", "cpu"))
        require_one_of("train.precision", self.precision, ("auto", "fp32", "amp_bf16"))
        require_one_of("train.sharding", self.sharding, tuple(SHARDINGS))
        require_one_of("train.compile", self.compile, ("auto", "true", "false"))
        require_at_least("train.loss_chunks", self.loss_chunks, 0)
        require_interval("train.log_interval", self.log_interval)
        require_interval("train.eval_interval", self.eval_interval)

    @property
    def branch_step(self) -> int:
        """Steps before the branch; 0 for a run that is none."""
        found = _CHECKPOINT.search(self.branch_from or "")
        return int(found[1]) if found else 0

    @property
    def sharding_mode(self) -> Sharding:
        """What `sharding` stands for."""
        return SHARDINGS[self.sharding]


@dataclass(frozen=True)
class CheckpointConfig:
    """Where and how often the run is saved; the same command resumes from the newest intact checkpoint."""

    folder: str = "${run.dir}/checkpoints"
    """Local folder, shared by all nodes, or URL (s3://, ...); with a URL, local copies stay in the run's folder."""
    interval: str = "1000ba"
    """How often to save: 1000ba, 1ep, 0.1dur, ...; the end of training and a stop by signal always save."""
    keep: int = 3
    """Checkpoints to keep; older ones are deleted, also in a store. -1 keeps all."""
    state_dict: str = "full"
    """`full` gathers all state in one file; `sharded` lets every rank write its own part (needs train.sharding)."""
    autoresume: bool = True
    """Whether to resume from the checkpoints in the folder. False starts from step 0 and needs a folder without any."""

    def __post_init__(self) -> None:
        require_interval("checkpoint.interval", self.interval)
        require_one_of("checkpoint.state_dict", self.state_dict, ("full", "sharded"))
        if self.keep != -1 and self.keep < 1:
            raise ConfigError(f"checkpoint.keep={self.keep} is not allowed: it must be at least 1, or -1 for all")


@dataclass(frozen=True)
class ExportConfig:
    """Export of a Composer checkpoint to a Hugging Face folder."""

    checkpoint: str | None = None
    """Checkpoint to export. Unset: the run's newest."""
    out_dir: str = "${run.dir}/hf"
    """Folder to write."""
    keep_mask: bool = True
    """Whether [MASK] and its embedding are exported; false removes what was added, restoring the vocabulary."""
    dtype: str = "fp32"
    """Type of the stored weights: `fp32` as trained, or `bf16`, half the size."""
    max_shard_size: str = "5GB"
    """Largest file of weights, in KB, MB, GB or TB; a larger model has several files and an index."""
    lora: str = "merge"
    """Of a run with adapters: `merge` adds them to the base's weights; `adapter` writes them alone, for peft and the
    base as it is, so without [MASK]."""

    def __post_init__(self) -> None:
        require_one_of("export.lora", self.lora, ("merge", "adapter"))
        require_one_of("export.dtype", self.dtype, ("fp32", "bf16"))
        if not _FILE_SIZE.fullmatch(self.max_shard_size):
            raise ConfigError(f"export.max_shard_size={self.max_shard_size!r} is not a size: write for example 5GB")
