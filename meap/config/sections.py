"""The sections of a training yaml, in the order in which data flows. Units and bounds stand under each field."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

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

__all__ = [
    "ARCHITECTURES",
    "CheckpointConfig",
    "DataConfig",
    "ExportConfig",
    "MaskingConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "SchedulerConfig",
    "SftConfig",
    "StreamConfig",
    "TokenizerConfig",
    "TrainConfig",
]

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
"""Decoders of transformers that are alike enough: plain causal attention, RMSNorm, RoPE and SwiGLU."""

_STREAM_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FILE_SIZE = re.compile(r"[1-9]\d*(\.\d+)?[KMGT]B")
_SIZE = re.compile(r"\d+b?|\d+(\.\d+)?[kmgt]b", re.IGNORECASE)


@dataclass(frozen=True)
class RunConfig:
    """Identity of the run."""

    name: str = "meap"
    """Name of the run and of its folder, at most 200 bytes, without /. Unset: the name of the yaml, without `.yaml`."""
    dir: str = "runs/${run.name}"
    """Local folder that holds everything the run writes."""
    seed: int = 17
    """Seed of the weights, of the sample order and of the masks; 0 to 2**32 - 1."""

    def __post_init__(self) -> None:
        require_folder_name("run.name", self.name)
        if not 0 <= self.seed < 1 << 32:
            raise ConfigError(f"run.seed={self.seed} is out of range: it must be in [0, {(1 << 32) - 1}]")


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer, and which of its tokens delimit documents and mark masks."""

    name: str | None = None
    """Local folder with a tokenizer.json, or a name on the Hugging Face hub. Unset: the one stored with the data."""
    bos_token: str | None = None
    """Token before each document. Unset: the tokenizer's own."""
    eos_token: str | None = None
    """Token after each document. Unset: the tokenizer's own."""
    mask_token: str = "[MASK]"  # noqa: S105 (not a secret)
    """Token that replaces masked inputs; added to the vocabulary where it is missing."""


@dataclass(frozen=True)
class StreamConfig:
    """One of several prepared data sets that training mixes."""

    remote: str = ""
    """Folder or URL that data preparation wrote; must be set."""
    proportion: float | None = None
    """Share of the training rows, relative to the other streams: 2 beside 1 is two thirds. For all streams or none."""


@dataclass(frozen=True)
class DataConfig:
    """Where the rows come from and in which order; forwarded to streaming's dataset under streaming's own names.

    What is not here is fixed, because the order of samples would otherwise depend on the machines: epoch_size (a
    multiple of the batch and of num_canonical_nodes), batch_size (the loader's), shuffle_seed (run.seed),
    sampling_granularity, partition_algo and replication.
    """

    remote: str = "data/sample/mds"
    """Folder or URL (s3://, gs://, ...) that data preparation wrote. Not read where there are streams."""
    streams: dict[str, StreamConfig] = field(default_factory=dict[str, StreamConfig])
    """Several data sets by name, mixed. With proportions, an epoch has as many rows as all streams together; a stream
    drawn for more rows than it has repeats rows, each time with other masks. Without, every row comes once per epoch.
    Held-out loss counts every validation row of the streams once."""
    cache_dir: str | None = None
    """Local folder for downloaded shards, with one folder per stream; runs cannot share it. Unset: <run.dir>/cache,
    with one per node if there are several."""
    seq_len: int = 4096
    """Input tokens per row; must equal seq_len of data preparation."""
    num_canonical_nodes: int = 24
    """Fixes the sample order for any number of nodes; a common multiple of all node counts the run may use. The rows of
    an epoch are a multiple of it and of the batch. Data too small for that are read as with 1."""
    shuffle: bool = True
    """Whether training rows are shuffled, differently in each epoch."""
    shuffle_algo: str = "py1e"
    """`py1e`, or `py1br` (rows meet within blocks), `py1s`, `py2s` (whole shards in random order)."""
    shuffle_block_size: int = 65536
    """Rows within which py1e and py1br shuffle; at least 1. Each canonical node reads this many rows at once: a
    cold start fetches about half of them for the first steps, 6 GB for 4,096 tokens and 24 canonical nodes."""
    sampling_method: str = "balanced"
    """Rows of a stream in an epoch that cannot hold all: `balanced`: different ones each epoch; `fixed`: the same."""
    batching_method: str = "random"
    """`random` draws a batch from the mixture; `stratified` gives every global batch the same number of rows of each
    stream: proportions, which it needs, are rounded to whole rows of the batch."""
    num_workers: int = 2
    """Loader processes per rank; 0 loads in the training process."""
    predownload: int | None = None
    """Rows to download ahead per worker, at least 1. Unset: eight device batches."""
    cache_limit: str | None = None
    """Largest size of the local cache of a split, such as 100gb. Must hold every shard that workers may read at once,
    plus four. Unset: no limit."""
    keep_zip: bool = False
    """Whether the cache keeps the compressed file of a shard, too; both count towards cache_limit."""
    validate_hash: bool = True
    """Whether each downloaded shard is checked against the hash that data preparation stored."""
    download_retry: int = 3
    """Retries of a failed download of a shard."""
    download_timeout: float = 60.0
    """Seconds without a byte after which a download counts as failed."""

    def __post_init__(self) -> None:
        require_at_least("data.seq_len", self.seq_len, 2)
        require_at_least("data.num_canonical_nodes", self.num_canonical_nodes, 1)
        require_one_of("data.shuffle_algo", self.shuffle_algo, ("py1e", "py1br", "py1s", "py2s"))
        require_at_least("data.shuffle_block_size", self.shuffle_block_size, 1)
        require_one_of("data.sampling_method", self.sampling_method, ("balanced", "fixed"))
        require_at_least("data.num_workers", self.num_workers, 0)
        if self.predownload is not None:
            require_at_least("data.predownload", self.predownload, 1)
        if self.cache_limit is not None and not _SIZE.fullmatch(self.cache_limit):
            raise ConfigError(f"data.cache_limit={self.cache_limit!r} is not a size: write for example 100gb")
        require_at_least("data.download_retry", self.download_retry, 0)
        if self.download_timeout <= 0:
            raise ConfigError(f"data.download_timeout={self.download_timeout} must be more than 0 seconds")
        self._require_streams()
        self._require_batching()

    def _require_streams(self) -> None:
        for name, stream in self.streams.items():
            if not _STREAM_NAME.fullmatch(name):
                raise ConfigError(
                    f"data.streams: {name[:80]!r} is not a valid name for a stream and its cache folder: "
                    "use up to 64 letters, digits, - and _"
                )
            if not stream.remote:
                raise ConfigError(f"data.streams.{name}.remote is not set: give the folder or URL of its shards")
            if stream.proportion is not None and not 0 < stream.proportion < math.inf:
                raise ConfigError(
                    f"data.streams.{name}.proportion={stream.proportion} is out of range: it must be more than 0 "
                    "(remove a stream that should give no rows)"
                )
        places = {stream.remote.rstrip("/"): name for name, stream in self.streams.items()}
        for name, stream in self.streams.items():
            if (other := places[stream.remote.rstrip("/")]) != name:
                raise ConfigError(
                    f"data.streams.{name} and data.streams.{other} are both {stream.remote}: leave one of them out "
                    "and raise the other's proportion, so that repeated rows are known as such"
                )
        without = [name for name, stream in self.streams.items() if stream.proportion is None]
        if 0 < len(without) < len(self.streams):
            raise ConfigError(
                f"data.streams.{without[0]}.proportion is not set, but other streams have one: "
                "set it for all streams, or for none to read every row once per epoch"
            )

    def _require_batching(self) -> None:
        if self.batching_method in {"per_stream", "device_per_stream"}:
            raise ConfigError(
                f"data.batching_method={self.batching_method} is refused: the samples of a step would depend on the "
                "number of devices, and a run could not be resumed on others; choose random or stratified"
            )
        require_one_of("data.batching_method", self.batching_method, ("random", "stratified"))
        if self.batching_method == "stratified" and not any(each.proportion for each in self.streams.values()):
            raise ConfigError(
                "data.batching_method=stratified needs data.streams with proportions: set them, or choose random"
            )


@dataclass(frozen=True)
class MaskingConfig:
    """The method: which share of the input is masked, and where the masks are written."""

    ratio: float = 0.15
    """Share of a row's input tokens replaced by the mask token, in [0, 1); 0 is plain next-token prediction."""
    strategy: str = "random"
    """`random` masks single tokens, `span` runs of `span_length` (Table 15); the count is the same."""
    span_length: int = 5
    """Tokens per span, at least 1; only read where strategy is `span`."""
    mask_last: bool = False
    """Whether the last input position may be masked (the official code never does)."""
    protected: tuple[str, ...] = ()
    """Tokens that are never masked, by role: any of bos, eos. The paper protects none; padding is never masked."""
    preset: str | None = None
    """`official` repeats the 51 mask patterns of the official code, the same for every row; needs site=algorithm."""
    site: str = "dataset"
    """Who masks: `dataset` (the loader's workers) or `algorithm` (the training process); the result is the same."""
    scope: str = "all"
    """`all` input tokens, or `response`: only tokens that are scored as targets; the latter needs site=algorithm."""
    schedule: str = "constant"
    """`constant`; `linear` or `cosine` go from ratio to final_ratio (not in the paper) and need site=algorithm."""
    final_ratio: float | None = None
    """Ratio at the end of the schedule and after it, in [0, 1); only with a schedule."""
    schedule_duration: str = "1dur"
    """Length of the schedule, from the start of training: 1dur, 0.5dur, 1000ba, 200000tok, 5000sp or 1ep."""

    def __post_init__(self) -> None:
        require_ratio("masking.ratio", self.ratio, remedy="The paper uses 0.15; 0 trains the NTP control.")
        require_one_of("masking.strategy", self.strategy, ("random", "span"))
        require_at_least("masking.span_length", self.span_length, 1)
        for role in self.protected:
            require_one_of("masking.protected", role, ("bos", "eos"))
        require_one_of("masking.site", self.site, ("dataset", "algorithm"))
        require_one_of("masking.scope", self.scope, ("all", "response"))
        if self.scope == "response" and self.site != "algorithm":
            raise ConfigError(
                "masking.scope=response depends on the labels of a batch, but rows masked by loader workers score all "
                "tokens (in fine-tuning, they are masked in answers only): set masking.site=algorithm"
            )
        self._check_schedule()
        if self.preset is not None:
            require_one_of("masking.preset", self.preset, ("official",))
            if self.site != "algorithm":
                raise ConfigError(
                    "masking.preset=official masks by training step, which loader workers do not know: "
                    "set masking.site=algorithm"
                )
            if self.strategy != "random" or self.mask_last or self.protected or self.scope != "all":
                raise ConfigError(
                    "masking.preset=official fixes the rule: leave masking.strategy, mask_last, protected and scope "
                    "unset"
                )

    def _check_schedule(self) -> None:
        require_one_of("masking.schedule", self.schedule, ("constant", "linear", "cosine"))
        require_share_or_duration("masking.schedule_duration", self.schedule_duration)
        if self.schedule == "constant":
            if self.final_ratio is not None:
                raise ConfigError(
                    f"masking.final_ratio={self.final_ratio} is the end of a schedule, but masking.schedule=constant: "
                    "set masking.schedule=linear or cosine, or leave masking.final_ratio unset"
                )
            return
        if self.final_ratio is None:
            raise ConfigError(
                f"masking.schedule={self.schedule} needs an end: set masking.final_ratio to a value in [0, 1)"
            )
        require_ratio("masking.final_ratio", self.final_ratio, remedy="masking.schedule=constant needs none.")
        if self.preset is not None:
            raise ConfigError(
                f"masking.preset={self.preset} fixes the ratio of a run: leave masking.schedule and final_ratio unset"
            )
        if self.site != "algorithm":
            raise ConfigError(
                f"masking.schedule={self.schedule} changes the ratio with the training step, which loader workers do "
                "not know: set masking.site=algorithm"
            )


@dataclass(frozen=True)
class SftConfig:
    """Fine-tuning only: how a conversation and its masked copy stand in a row, and which tokens are scored."""

    layout: str = "concat"
    """`concat`: the copy attends to its original, positions run on (paper); `separate`: it does not (official code)."""
    loss: str = "answer+masked"
    """`answer+masked`: answers of the original and masked tokens of the copy; `masked`: the latter alone."""
    min_answer_tokens: int | None = None
    """Only conversations with more answer tokens are copied. Unset: as prepared; may be raised, not lowered."""

    def __post_init__(self) -> None:
        require_one_of("sft.layout", self.layout, ("concat", "separate"))
        require_one_of("sft.loss", self.loss, ("answer+masked", "masked"))
        if self.min_answer_tokens is not None:
            require_at_least("sft.min_answer_tokens", self.min_answer_tokens, 0)


@dataclass(frozen=True)
class ModelConfig:
    """A finished model to start from, or a decoder (RMSNorm, RoPE, SwiGLU, GQA) from scratch."""

    base: str | None = None
    """What training starts from: a Hugging Face folder or hub name; a run of ours (its folder, its checkpoints' folder
    or URL, or one checkpoint); a `.pth` of the official code. All but the last bring their own sizes: those below are
    then unused."""
    base_rope_theta: float | None = None
    """RoPE theta that replaces the base's, for rows longer than it was trained on (the paper takes 640,000 for 65,536
    positions; yamls/long/). Unset: the base's own, and its own longest row."""
    architecture: str = "llama"
    """Decoder from scratch, by its name in transformers: `llama` (the paper), `mistral`, `qwen2` or `qwen3`."""
    hidden_size: int = 2048
    intermediate_size: int = 5632
    num_attention_heads: int = 32
    num_key_value_heads: int = 2
    num_hidden_layers: int = 24
    head_dim: int | None = None
    """Size of a head, an even number. Unset: hidden_size / num_attention_heads."""
    tie_word_embeddings: bool = False
    """Whether the head shares the weights of the embedding."""
    vocab_multiple: int = 64
    """Embedding rows are padded up to a multiple of this (32,001 ids become 32,064 rows)."""
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    attention: str = "auto"
    """`auto` and `sdpa`: torch's own, which chooses the fastest kernel of the device; `flash_attention_2`: the package
    flash-attn."""
    kernels: str = "auto"
    """RMSNorm, RoPE and SwiGLU by `torch`, `liger` (needs CUDA), or `auto`: liger where layers are not compiled."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_multiple"):
            require_at_least(f"model.{name}", getattr(self, name), 1)
        require_at_least("model.num_key_value_heads", self.num_key_value_heads, 1)
        require_one_of("model.architecture", self.architecture, ARCHITECTURES)
        self._check_extension()
        if self.head_dim is not None and (self.head_dim < 2 or self.head_dim % 2):
            raise ConfigError(f"model.head_dim={self.head_dim} is not an even number above 0 (RoPE rotates pairs)")
        if self.head_dim is None and self.hidden_size % (2 * self.num_attention_heads):
            raise ConfigError(
                f"model.hidden_size={self.hidden_size} does not split into {self.num_attention_heads} heads of even "
                "size (RoPE rotates pairs): choose a multiple of 2 * model.num_attention_heads, or set model.head_dim"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"model.num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"model.num_key_value_heads={self.num_key_value_heads}"
            )
        require_one_of("model.attention", self.attention, ("auto", "sdpa", "flash_attention_2"))
        require_one_of("model.kernels", self.kernels, ("auto", "torch", "liger"))

    def _check_extension(self) -> None:
        if self.base_rope_theta is None:
            return
        if self.base_rope_theta <= 0:
            raise ConfigError(f"model.base_rope_theta={self.base_rope_theta} must be more than 0")
        if self.base is None:
            raise ConfigError(
                f"model.base_rope_theta={self.base_rope_theta:g} replaces the theta of model.base, which "
                "is not set: set it, or give a model from scratch model.rope_theta"
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW. Weight decay applies to matrices, the embedding among them; the weights of norms have none."""

    lr: float = 4e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.05
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
    """Linear warm-up, then cosine decay."""

    warmup_ratio: float = 0.1
    """Share of the training steps in which the learning rate rises from 0 to its peak, in [0, 1)."""
    warmup_duration: str | None = None
    """The same as a duration: 2000ba, 2000000000tok, 512000sp, 1ep, 0.1dur. Unset: warmup_ratio, else not read."""
    final_ratio: float = 0.1
    """Learning rate at the end as a share of the peak, in [0, 1)."""

    def __post_init__(self) -> None:
        require_ratio("scheduler.warmup_ratio", self.warmup_ratio, remedy="The paper uses 0.1.")
        if self.warmup_duration is not None:
            require_share_or_duration("scheduler.warmup_duration", self.warmup_duration)
        require_ratio("scheduler.final_ratio", self.final_ratio, remedy="The paper uses 0.1.")


@dataclass(frozen=True)
class TrainConfig:
    """Length, batch size, device and speed."""

    max_duration: str = "190000ba"
    """Length of training in batches (`ba`), tokens (`tok`), samples (`sp`) or epochs (`ep`), rounded up to batches."""
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
    """FSDP: `none` (every device holds all), `full` (weights, gradients and optimiser sharded, ZeRO-3), `grad_op` (the
    same, with all weights gathered during a step)."""
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
    dist_timeout: float = 1800.0
    """Seconds after which ranks stop waiting for others; must exceed the upload time of a checkpoint."""
    deterministic: bool = False
    """Whether a GPU uses deterministic kernels only (attention without cuDNN), which are slower. A CPU always does."""

    def __post_init__(self) -> None:
        if not 0 < self.dist_timeout < math.inf:
            raise ConfigError(
                f"train.dist_timeout={self.dist_timeout} is not allowed: it must be more than 0 seconds, and more than "
                "the upload of a checkpoint takes"
            )
        require_duration("train.max_duration", self.max_duration)
        require_at_least("train.global_batch_size", self.global_batch_size, 1)
        require_at_least("train.microbatch_size", self.microbatch_size, 1)
        require_at_least("train.eval_batches", self.eval_batches, 0)
        require_one_of("train.device", self.device, ("auto", "gpu", "cpu"))
        require_one_of("train.precision", self.precision, ("auto", "fp32", "amp_bf16"))
        require_one_of("train.sharding", self.sharding, tuple(SHARDINGS))
        require_one_of("train.compile", self.compile, ("auto", "true", "false"))
        require_at_least("train.loss_chunks", self.loss_chunks, 0)
        require_interval("train.log_interval", self.log_interval)
        require_interval("train.eval_interval", self.eval_interval)

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
    """How often to save: 1000ba, 1ep, 0.1dur, ...; the end of training and a stop by SIGTERM or SIGUSR1 always save."""
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

    def __post_init__(self) -> None:
        require_one_of("export.dtype", self.dtype, ("fp32", "bf16"))
        if not _FILE_SIZE.fullmatch(self.max_shard_size):
            raise ConfigError(f"export.max_shard_size={self.max_shard_size!r} is not a size: write for example 5GB")
