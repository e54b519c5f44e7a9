"""The ways of `train_step.py` to take a training step, all with the same weights and the same optimiser."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import platform
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.core import State
from composer.core.precision import get_precision_context
from composer.loggers import Logger, LoggerDestination
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM

from meap.config import RecipeConfig, TokenizerConfig
from meap.data import build_loader, build_mask_rule, open_shards, open_tokenizer
from meap.data.shards import Shards
from meap.errors import IncompleteError
from meap.manifest import Manifest, ShardRecord, TokenizerRecord
from meap.schema import MANIFEST_NAME, TOKENIZER_DIR, TOKENS_COLUMN, TRAIN_SPLIT, mds_columns
from meap.tokenizer import Tokenizer, load_tokenizer
from meap.train.attention import choose_attention
from meap.train.callbacks import LRMonitor, MaskingMonitor, Throughput
from meap.train.data import RunData
from meap.train.flops import peak_flops_per_second, training_flops_per_token
from meap.train.machine import Machine, join_machine
from meap.train.model import NextTokenModel, build_model, decoder_config
from meap.train.pinned.step import LeanTrainer
from meap.train.run import Run
from meap.train.timetable import Timetable
from meap.train.trainer import build_trainer

__all__ = ["BARE", "CACHED", "PLAIN", "RECIPE", "STOCK", "Measured", "measure", "write_random_rows"]

RECIPE = "recipe: Trainer, callbacks, masked rows"
BARE = "bare loop, masked rows"
PLAIN = "bare loop, plain rows"
CACHED = "bare loop, one batch again and again"
STOCK = "stock transformers, one batch again and again"

_CHECKED_STEPS = 5


@dataclass
class Measured:
    """What a measurement found; seconds are per step, one entry per round."""

    device: str
    torch: str
    how: str
    parameters: int
    tokens_per_step: int
    flops_per_token: dict[str, float]
    peak_flops: float | None
    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    waits: list[float] = field(default_factory=list[float])
    """Seconds per step in which the bare loop with masked rows waited for its loader."""
    first_step: float = 0.0
    compiling: float = 0.0
    peak_memory: int = 0
    syncs_per_step: float | None = None


def measure(
    config: RecipeConfig,
    folder: Path,
    *,
    rounds: int,
    warm_up: int,
    steps: int,
    started: float,
    alone: bool = False,
    vocab_size: int | None = None,
) -> Measured:
    """Take turns.

    Args:
        config: The run, with the rows per step of one device.
        folder: Scratch space.
        rounds: Rounds that count.
        warm_up: Rounds before them that do not.
        steps: Steps of each way per round.
        started: When the process started, by `time.perf_counter`.
        alone: Whether the recipe runs alone, without the ways it is compared with.
        vocab_size: Ids of the random rows; unset, as many as a head can have on this device without being most of the
            work.
    """
    machine = join_machine(config.train)
    if not machine.on_gpu:
        torch.set_num_threads(1)
    num_steps = steps * (rounds + warm_up) + _CHECKED_STEPS
    shards, config = _open_rows(
        config,
        folder,
        num_rows=config.train.global_batch_size * (num_steps + 2),
        # Llama 2's with the mask token; fewer on a CPU, where the head would be most of a small model's work.
        vocab_size=vocab_size or (32_001 if machine.on_gpu else 4_001),
    )
    record = shards.tokenizer
    architecture = decoder_config(config.model, vocab_size=record.vocab_size, seq_len=config.data.seq_len)
    attention = choose_attention(config.model.attention, on_gpu=machine.on_gpu, bf16=machine.bf16)
    model = build_model(architecture, attention=attention, seed=config.run.seed)

    def loader(name: str, ratio: float) -> Any:
        rule = build_mask_rule(replace(config.masking, ratio=ratio), record, seed=config.run.seed)
        size = config.train.global_batch_size
        return build_loader(
            config.data,
            shards,
            rule=rule if ratio else None,
            seed=config.run.seed,
            global_batch_size=size,
            world_size=1,
            cache_dir=folder / name,
            shuffle=config.data.shuffle,
        )

    ratio = config.masking.ratio or 0.15
    run = Run(machine, folder / "run", folder / "recipe")
    data = RunData(
        shards,
        open_tokenizer(config.tokenizer, shards),
        build_mask_rule(config.masking, record, seed=config.run.seed),
        Timetable.of(config, shards),
        context=config.data.seq_len,
        loader=loader("recipe", ratio),
    )
    trainer = build_trainer(
        config,
        run,
        data,
        model,
        algorithms=[],
        callbacks=[
            MaskingMonitor(mask_id=record.mask_id, interval=data.timetable.log_interval),
            LRMonitor(),
            Throughput.of(config, machine, model, data.timetable),
        ],
    )
    assert isinstance(trainer, LeanTrainer)
    clock = time.perf_counter if machine.on_gpu else time.process_time
    step = partial(_step, trainer, config, machine)
    masked, plain = (_Batches(loader(name, each), clock) for name, each in (("masked", ratio), ("plain", 0.0)))
    cached = _to_device(next(masked), machine)
    stock = _stock(model)
    measured = Measured(
        device=torch.cuda.get_device_name() if machine.on_gpu else platform.processor() or platform.machine(),
        torch=torch.__version__,
        how=f"{machine.precision}, attention {attention}, compile {config.train.compile}, micro-batches of "
        f"{config.train.microbatch_size} x {config.data.seq_len:,}",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tokens_per_step=config.train.global_batch_size * config.data.seq_len,
        flops_per_token={
            name: training_flops_per_token(architecture, context=config.data.seq_len, causal=name == "causal")
            for name in ("palm", "causal")
        },
        peak_flops=peak_flops_per_second(torch.cuda.get_device_name()) if machine.on_gpu else None,
    )
    others = {
        BARE: lambda: step(_scored_by(model), next(masked)),
        PLAIN: lambda: step(_scored_by(model), next(plain)),
        CACHED: lambda: step(_scored_by(model), cached),
        STOCK: lambda: step(lambda batch: stock(batch["input_ids"], labels=batch["input_ids"]).loss, cached),
    }
    turns = _Turns(
        measured,
        {} if alone else others,
        masked,
        machine,
        rounds=rounds,
        warm_up=warm_up,
        steps=steps,
        started=started,
    )
    trainer.state.callbacks.append(turns)
    with contextlib.suppress(_MeasuredAllError), contextlib.redirect_stdout(io.StringIO()):
        trainer.fit()
    trainer.engine.close()
    return measured


class _MeasuredAllError(Exception):
    """Everything has been measured."""


class _Turns(LoggerDestination):
    """Times blocks of the Trainer's own steps, and lets the other ways run between them.

    A logger, for loggers come last: a block ends when all has been done that the recipe does in a step. On a CPU the
    clock is the process's own, which neighbours do not move.
    """

    def __init__(
        self,
        measured: Measured,
        others: dict[str, Callable[[], None]],
        masked: _Batches,
        machine: Machine,
        *,
        rounds: int,
        warm_up: int,
        steps: int,
        started: float,
    ) -> None:
        self._measured, self._others, self._masked, self._machine = measured, others, masked, machine
        self._rounds, self._warm_up, self._steps, self._started = rounds, warm_up, steps, started
        self._round = self._step = 0
        self._mark = 0.0
        self._watch: contextlib.ExitStack | None = None
        self._syncs: list[int] = []
        self._warnings: list[Any] = []
        measured.seconds = {way: [] for way in (RECIPE, *others)}

    def fit_start(self, state: State, logger: Logger) -> None:
        self._mark = self._now()

    def batch_start(self, state: State, logger: Logger) -> None:
        if self._round == self._rounds + self._warm_up and self._machine.on_gpu:
            self._watch = contextlib.ExitStack()
            self._warnings = self._watch.enter_context(warnings.catch_warnings(record=True)) or []
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def batch_end(self, state: State, logger: Logger) -> None:
        if self._watch is not None:
            torch.cuda.set_sync_debug_mode("default")
            self._watch.close()
            found = [each for each in self._warnings if "synchronizing" in str(each.message)]
            self._syncs.append(len(found))
        self._step += 1
        if self._round == self._rounds + self._warm_up:
            if self._step == _CHECKED_STEPS or not self._machine.on_gpu:
                # The median: one of the steps may be one that logs, and so reads.
                self._measured.syncs_per_step = sorted(self._syncs)[len(self._syncs) // 2] if self._syncs else None
                raise _MeasuredAllError
            return
        if self._round == 0 and self._step == 1:
            self._measured.compiling = self._now() - self._mark
            self._measured.first_step = time.perf_counter() - self._started
        if self._step == self._steps:
            self._keep(RECIPE, (self._now() - self._mark) / self._steps)
            self._measured.peak_memory = max(self._measured.peak_memory, self._peak_memory())
            self._let_others_run()
            self._round, self._step = self._round + 1, 0
            if self._round == self._rounds + self._warm_up:
                self._measured.compiling -= min(self._measured.seconds[RECIPE])
            if self._machine.on_gpu:
                torch.cuda.reset_peak_memory_stats()
            self._mark = self._now()

    def _let_others_run(self) -> None:
        ways = [*self._others]
        shift = self._round % len(ways) if ways else 0
        for way in ways[shift:] + ways[:shift]:
            self._masked.waited = 0.0
            begin = self._now()
            for _ in range(self._steps):
                self._others[way]()
            self._keep(way, (self._now() - begin) / self._steps)
            if way == BARE and self._round >= self._warm_up:
                self._measured.waits.append(self._masked.waited / self._steps)

    def _keep(self, way: str, seconds: float) -> None:
        if self._round >= self._warm_up:
            self._measured.seconds[way].append(seconds)

    def _now(self) -> float:
        if not self._machine.on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def _peak_memory(self) -> int:
        if self._machine.on_gpu:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Batches(Iterator[Any]):
    """Batches without end, and how long their reader has waited for them."""

    def __init__(self, loader: Any, clock: Callable[[], float]) -> None:
        self._batches = itertools.chain.from_iterable(loader for _ in itertools.count())
        self._clock = clock
        self.waited = 0.0

    def __next__(self) -> Any:
        begin = self._clock()
        batch = next(self._batches)
        self.waited += self._clock() - begin
        return batch


def _step(
    trainer: LeanTrainer,
    config: RecipeConfig,
    machine: Machine,
    loss_of: Callable[[dict[str, Any]], torch.Tensor],
    batch: dict[str, Any],
) -> None:
    """What there is to do in a step, and no more."""
    model, optimizer = trainer.state.model, trainer.state.optimizers[0]
    batch = _to_device(batch, machine)
    optimizer.zero_grad(set_to_none=True)
    size = min(config.train.microbatch_size, config.train.global_batch_size)
    num_rows = len(batch["input_ids"])
    for start in range(0, num_rows, size):
        rows = {name: each[start : start + size] for name, each in batch.items()}
        with get_precision_context(trainer.state.precision):
            loss = loss_of(rows)
        (loss * (len(rows["input_ids"]) / num_rows)).backward()
    if config.optimizer.grad_clip_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.grad_clip_norm)
    optimizer.step()


def _scored_by(model: NextTokenModel) -> Callable[[dict[str, Any]], torch.Tensor]:
    return lambda batch: model(batch)["loss"]  # type: ignore[arg-type]


def _stock(model: NextTokenModel) -> Any:
    """The unchanged model of transformers, which shares the parameters of ours."""
    with torch.device("meta"):
        stock = AutoModelForCausalLM.from_config(model.config, attn_implementation="sdpa")
    for name, parameter in model.model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        stock.get_submodule(owner)._parameters[leaf] = parameter
    stock.model.rotary_emb = model.model.model.rotary_emb
    return stock.train()


def _to_device(batch: dict[str, Any], machine: Machine) -> dict[str, Any]:
    if not machine.on_gpu:
        return batch
    return {
        name: each if each.is_cuda else each.pin_memory().to("cuda", non_blocking=True) for name, each in batch.items()
    }


def _open_rows(config: RecipeConfig, folder: Path, *, num_rows: int, vocab_size: int) -> tuple[Shards, RecipeConfig]:
    """The yaml's shards, or else rows of random tokens."""
    try:
        return open_shards(config.data, TRAIN_SPLIT), config
    except IncompleteError:
        print(f"no shards at {config.data.remote}: {num_rows:,} rows of random tokens instead")
    config = replace(config, data=replace(config.data, remote=str(folder / "random"), streams={}))
    write_random_rows(folder / "random" / TRAIN_SPLIT, num_rows, config.data.seq_len, vocab_size)
    return open_shards(config.data, TRAIN_SPLIT), config


def write_random_rows(folder: Path, num_rows: int, seq_len: int, vocab_size: int) -> None:
    """Write a split of rows of random tokens, and a tokenizer beside it."""
    from streaming import MDSWriter

    tokenizer = _write_random_tokenizer(folder.parent / TOKENIZER_DIR, vocab_size)
    random = np.random.default_rng(0)
    with MDSWriter(columns=mds_columns(seq_len, vocab_size), out=str(folder), hashes=["xxh3_64"]) as writer:
        for _ in range(num_rows):
            writer.write({TOKENS_COLUMN: random.integers(3, vocab_size - 1, seq_len + 1).astype(np.uint16)})
    shards = tuple(
        ShardRecord(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest(), shard["samples"])
        for shard in json.loads((folder / "index.json").read_text())["shards"]
        for path in [folder / shard["raw_data"]["basename"]]
    )
    manifest = Manifest(
        split=TRAIN_SPLIT,
        seq_len=seq_len,
        dtype="uint16",
        hash_algorithm="xxh3_64",
        documents=num_rows,
        tokens=num_rows * (seq_len + 1),
        rows=num_rows,
        dropped_tail_tokens=0,
        bad_lines=0,
        tokenizer=TokenizerRecord("random tokens", tokenizer.fingerprint, vocab_size, 0, 1, tokenizer.mask_id),
        shards=shards,
        sources=(),
        config={},
        versions={},
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json())


def _write_random_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """A tokenizer of so many words, with what delimits and masks them."""
    words = {word: number for number, word in enumerate(["<s>", "</s>", "<unk>", *map(str, range(vocab_size - 4))])}
    folder.mkdir(parents=True, exist_ok=True)
    RustTokenizer(WordLevel(words, unk_token="<unk>")).save(str(folder / "tokenizer.json"))  # noqa: S106
    tokenizer = load_tokenizer(TokenizerConfig(str(folder), "<s>", "</s>"))
    tokenizer.save(folder)
    return tokenizer
