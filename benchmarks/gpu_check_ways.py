"""The checks of `gpu_check.py` that `train_step.py` does not measure: one per call, with its figures in a file.

python benchmarks/gpu_check_ways.py attention --size full --scratch runs/check --json report.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F

from meap.answers import LONG, SCORED
from meap.schema import ANSWER_COLUMN, COPIED_COLUMN, LENGTHS_COLUMN, TOKENS_COLUMN, TRAIN_SPLIT

ROOT = Path(__file__).resolve().parent.parent
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
HALF = torch.bfloat16
Figures = dict[str, Any]


class WrongError(Exception):
    """A result differs from what it must be."""


class LeftOutError(Exception):
    """The check cannot run here; says why."""


def check_device(size: str, scratch: Path) -> Figures:
    """The device, and the versions of its software."""
    capability = "sm_{}{}".format(*torch.cuda.get_device_capability()) if ON_GPU else None
    if ON_GPU and capability not in torch.cuda.get_arch_list():
        raise WrongError(f"torch {torch.__version__} has no kernels for {capability}: {torch.cuda.get_arch_list()}")
    return {
        "size": size,
        "name": f"{torch.cuda.get_device_name()} ({capability})" if ON_GPU else "CPU",
        "gpu": ON_GPU,
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if ON_GPU else None,
        "transformers": metadata.version("transformers"),
        "packages": [name for name in ("flash_attn", "liger_kernel") if find_spec(name)],
    }


def check_attention(size: str, scratch: Path) -> Figures:
    """Each way, plain and on segments, against softmax(QK)V in fp32, and its gradients."""
    from meap.train.attention import Segments, causal_flash_attention, causal_sdpa

    ways: dict[str, tuple[Callable[..., Any], torch.dtype]] = {"torch, fp32": (causal_sdpa, torch.float32)}
    if ON_GPU:
        ways["torch, bf16"] = (causal_sdpa, HALF)
        ways["torch, bf16, compiled"] = (torch.compile(causal_sdpa), HALF)
        if find_spec("flash_attn"):
            ways["flash-attn, bf16"] = (causal_flash_attention, HALF)
    figures: Figures = {}
    num_tokens = 1024 if size == "full" else 96
    for head_size in (64, 128):
        # A length that no block of a kernel divides, padding after segments, and a segment of one token.
        for length in (num_tokens, num_tokens - 23):
            lengths = [[length // 2, 1, length // 3], [length]]
            segments = Segments.of(lengths, num_tokens=length, device=torch.device(DEVICE))
            for name, (attend, dtype) in ways.items():
                for kind, of_rows in (("rows", None), ("segments", segments)):
                    error = _error(attend, dtype, (2, 8, 2, length, head_size), of_rows)
                    key = f"error of {kind}, {name}"
                    figures[key] = max(figures.get(key, 0.0), error)
    for name, error in figures.items():
        if error > (1e-4 if "fp32" in name else 1e-2):
            raise WrongError(f"{name}: {error:.2g} of the norm, see {figures}")
    return figures


def _error(attend: Callable[..., Any], dtype: torch.dtype, shape: tuple[int, ...], segments: Any) -> float:
    """The largest difference of an output or gradient from the exact one, as a share of its norm."""
    rows, heads, groups, length, size = shape
    generator = torch.Generator(DEVICE).manual_seed(0)
    shapes = ((rows, heads, length, size), (rows, groups, length, size), (rows, groups, length, size))
    states = [torch.randn(each, generator=generator, device=DEVICE).requires_grad_() for each in shapes]
    lengths = segments.lengths if segments else [[length]] * rows
    weight = torch.randn((rows, length, heads, size), generator=generator, device=DEVICE)
    for row, each in enumerate(lengths):
        weight[row, sum(each) :] = 0  # what padding computes counts for nothing
    exact = _exact(states, lengths)
    given, _ = attend(torch.nn.Identity(), *(each.to(dtype) for each in states), None, segments=segments)
    found = [[out * weight, *torch.autograd.grad((out * weight).sum(), states)] for out in (given.float(), exact)]
    return max(float((one - other).norm() / other.norm()) for one, other in zip(*found, strict=True))


def _exact(states: list[torch.Tensor], lengths: Any) -> torch.Tensor:
    query, key, value = states
    key, value = (each.repeat_interleave(query.shape[1] // key.shape[1], 1) for each in (key, value))
    position = torch.arange(query.shape[2], device=DEVICE)
    rows = []
    for row, each in enumerate(lengths):
        segment = torch.zeros_like(position)
        for start in accumulate(each):
            segment[start:] += 1
        allowed = (segment[:, None] == segment) & (position[:, None] >= position)
        scores = (query[row] @ key[row].transpose(1, 2)) / query.shape[3] ** 0.5
        rows.append(scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ value[row])
    return torch.stack(rows).transpose(1, 2)


def check_masks(size: str, scratch: Path) -> Figures:
    """Positions, tokens and directions drawn on the device against those that numpy draws, for rules of every kind."""
    from meap.masking import MaskRule

    rows, length = (64, 4096) if size == "full" else (4, 256)
    random = np.random.default_rng(0)
    tokens, ids = random.integers(3, 99, (rows, length)), random.integers(0, 1 << 40, rows)
    in_scope, is_token = random.random((rows, length)) < 0.5, np.arange(length) < random.integers(1, length, (rows, 1))
    rules = [
        MaskRule(mask_id=2, ratio=ratio, seed=seed, span_length=span, mask_last=last, protected_ids=protected)
        for ratio, seed, span, last, protected in [
            (0.15, 17, 1, False, ()),
            (0.5, 2**32 - 1, 1, True, (5, 7)),
            (0.15, 17, 5, False, ()),
            (0.0, 1, 1, False, ()),
        ]
    ]
    rules += [
        MaskRule(2, 0.3, seed=5, random_share=0.5, keep_share=0.2, num_ids=99, special_ids=(0, 1, 2)),
        MaskRule(2, 0.3, seed=5, reversed_ratio=0.5, direction_id=99),
    ]
    masked = 0
    for rule in rules:
        for scope in ({}, {"in_scope_BT": in_scope, "is_token_BT": is_token}):
            here = rule.apply(tokens, ids, epoch=3, **scope)
            there = rule.apply(
                _on_device(tokens), _on_device(ids), epoch=3, **{n: _on_device(s) for n, s in scope.items()}
            )
            if not np.array_equal(here, there.cpu().numpy()):
                raise WrongError(f"{rule}: {int((here != there.cpu().numpy()).sum())} positions differ")
            masked += int((here == 2).sum())
        turned = rule.turn(tokens[:, :-1], tokens[:, 1:], ids, epoch=3)
        placed = map(_on_device, (tokens[:, :-1], tokens[:, 1:], ids))
        if not all(map(np.array_equal, turned, (each.cpu().numpy() for each in rule.turn(*placed, epoch=3)))):
            raise WrongError(f"{rule}: rows are read in other directions")
    return {"positions compared": 2 * len(rules) * rows * length, "of these masked": masked}


def _on_device(array: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(array).to(DEVICE)


def check_kernels(size: str, scratch: Path) -> Figures:
    """Forward and backward of causal attention by either kernel, taking turns."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if not ON_GPU:
        raise LeftOutError("no GPU found")
    figures: Figures = {}
    for rows, length in ((8, 4096), (1, 65536)):
        shapes = ((rows, 32, length, 64), (rows, 2, length, 64), (rows, 2, length, 64))
        query, key, value = (torch.randn(each, device=DEVICE, dtype=HALF, requires_grad=True) for each in shapes)
        seconds: dict[str, list[float]] = {"cudnn": [], "flash": []}
        backends = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
        for turn in range(6):
            for name, backend in backends.items():
                torch.cuda.synchronize()
                start = time.perf_counter()
                with sdpa_kernel(backend):
                    F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).sum().backward()
                torch.cuda.synchronize()
                if turn:
                    seconds[name].append(time.perf_counter() - start)
        for name, each in seconds.items():
            figures[f"{name}, {rows} x {length:,}, ms"] = 1e3 * statistics.median(each)
        pairs = zip(seconds["flash"], seconds["cudnn"], strict=True)
        figures[f"cuDNN / flash-attention 2, {rows} x {length:,}"] = statistics.median(
            theirs / ours for theirs, ours in pairs
        )
    return figures


def check_resume(size: str, scratch: Path) -> Figures:
    """A run that is killed and started again, against one that is not."""
    from train_step_ways import write_random_rows

    steps, killed_after = (24, 12) if size == "full" else (12, 5)
    rows, seq_len = scratch / "rows", 4096 if size == "full" else 256
    shutil.rmtree(scratch, ignore_errors=True)
    write_random_rows(rows / TRAIN_SPLIT, 8 * steps * 2, seq_len, 32_001 if size == "full" else 501)
    yaml = "yamls/0.1b.yaml" if size == "full" else "yamls/tiny.yaml"

    def command(name: str) -> list[str]:
        return [
            *(sys.executable, "recipes/meap_1b.py", yaml, f"run.name={name}", f"run.dir={scratch / name}"),
            *(
                f"data.remote={rows}",
                f"train.max_duration={steps}ba",
                "train.global_batch_size=8",
                "train.log_interval=1ba",
            ),
            *("checkpoint.interval=3ba", "train.deterministic=true", "loggers.tensorboard=false"),
        ]

    _run_in(*command("whole"))
    victim = subprocess.Popen(command("killed"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with victim:
        while victim.poll() is None and len(_losses(scratch / "killed")) < killed_after:
            time.sleep(0.002)  # there is nothing to wait on but the file that the run writes
        victim.kill()
    before = _losses(scratch / "killed")
    if len(before) >= steps:
        raise WrongError("the run ended before the check could kill it")
    _run_in(*command("killed"))
    whole, resumed = _losses(scratch / "whole"), _losses(scratch / "killed")
    different = [step for step in whole if whole[step] != resumed.get(step)]
    if different or len(whole) != steps:
        raise WrongError(f"losses differ at steps {different} of {len(whole)}, killed after step {max(before)}")
    return {"steps": steps, "killed after step": max(before), "losses that differ": 0, "last loss": whole[steps]}


def _losses(run_dir: Path) -> dict[int, float]:
    """Loss by step; an incomplete last line is skipped, and of a repeated step the later loss counts."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    records = [json.loads(line) for line in lines]
    return {each["step"]: each["loss/train/total"] for each in records if "loss/train/total" in each}


def check_export(size: str, scratch: Path) -> Figures:
    """The run of `resume` as a folder that transformers reads, in bf16, and what it answers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (scratch / "whole" / "checkpoints").is_dir():
        check_resume(size, scratch)
    folder = scratch / "hf"
    shutil.rmtree(folder, ignore_errors=True)
    _run_in(
        *(
            sys.executable,
            "recipes/export_hf.py",
            f"run.dir={scratch / 'whole'}",
            f"export.out_dir={folder}",
            "export.dtype=bf16",
        )
    )
    model = (
        cast("Any", AutoModelForCausalLM).from_pretrained(folder, dtype="auto", attn_implementation="sdpa").to(DEVICE)
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("7 8 9 10 11 12", return_tensors="pt").to(DEVICE)
    answer = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    mask_id = json.loads((folder / "meap_export.json").read_text()).get("mask_id", tokenizer.mask_token_id)
    if model.dtype != HALF or not len(answer) or bool((answer == mask_id).any()):
        raise WrongError(f"{model.dtype} weights answered {answer.tolist()}, mask id {mask_id}")
    return {"weights": str(model.dtype), "tokens answered": len(answer), "answer": tokenizer.decode(answer)[:40]}


def check_packed(size: str, scratch: Path) -> Figures:
    """A step on rows of conversations and their masked copies, and its loss against conversations one by one."""
    from meap.config import RecipeConfig, SftConfig, load_config
    from meap.data import collate_rows
    from meap.data.sft import expand_row
    from meap.masking import MaskRule
    from meap.train.attention import choose_attention
    from meap.train.flops import training_flops_per_token
    from meap.train.model import build_model, decoder_config

    config = load_config(RecipeConfig, "yamls/1b.yaml" if size == "full" else "yamls/tiny.yaml", [])
    seq_len, rows = (8192, 2) if size == "full" else (256, 2)
    architecture = decoder_config(config.model, vocab_size=32_001 if size == "full" else 501, seq_len=seq_len)
    attention = choose_attention("auto", on_gpu=ON_GPU, bf16=ON_GPU)
    model = build_model(architecture, attention=attention, seed=1).to(DEVICE)
    sft = SftConfig(layout="separate")
    rule = MaskRule(mask_id=500, ratio=0.10, seed=1)
    samples = [
        expand_row(_conversations(seq_len, seed), seed, seq_len=seq_len, sft=sft, rule=rule, epoch=0)
        for seed in range(rows)
    ]
    collated: Any = collate_rows(
        [{n: torch.from_numpy(c) if isinstance(c, np.ndarray) else c for n, c in s.items()} for s in samples]
    )
    batch: dict[str, Any] = {
        name: each.to(DEVICE) if torch.is_tensor(each) else each for name, each in collated.items()
    }
    half = partial(torch.autocast, DEVICE, HALF, enabled=ON_GPU)
    with half(), torch.no_grad():
        packed, alone = float(model(batch)["loss"]), _loss_one_by_one(model, batch)
    if abs(packed - alone) > (5e-3 if ON_GPU else 1e-5) * alone:
        raise WrongError(f"loss {packed} of packed rows, {alone} of their segments one by one")
    seconds = []
    for _ in range(4):
        with _timed(seconds), half():
            model(batch)["loss"].backward()
        model.zero_grad()
    flops = training_flops_per_token(architecture, context=1, causal=True)
    tokens = rows * seq_len / statistics.median(seconds[1:])
    return {
        "loss packed": packed,
        "loss one by one": alone,
        "segments": sum(map(len, batch["segment_lengths"])),
        "tokens_per_second": tokens,
        "TFLOP/s without attention": tokens * flops / 1e12,
        "peak memory, GB": torch.cuda.max_memory_allocated() / 1e9 if ON_GPU else None,
    }


def _conversations(seq_len: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Conversations of random tokens, each with room for its copy, until a row is full to nine tenths."""
    random, lengths = np.random.default_rng(seed), []
    while 2 * sum(lengths) < 0.9 * seq_len - seq_len // 8:
        lengths.append(int(random.integers(seq_len // 64, seq_len // 16)))
    answers = [np.where(np.arange(length) >= length // 3, SCORED | LONG, 0) for length in lengths]
    return {
        TOKENS_COLUMN: random.integers(3, 500, sum(lengths)).astype(np.uint16),
        ANSWER_COLUMN: np.concatenate(answers).astype(np.uint8),
        LENGTHS_COLUMN: np.array(lengths, np.uint32),
        COPIED_COLUMN: np.ones(len(lengths), np.uint8),
    }


def _loss_one_by_one(model: Any, batch: dict[str, Any]) -> float:
    losses = []
    for row, lengths in enumerate(batch["segment_lengths"]):
        for start, end in pairwise(accumulate(lengths, initial=0)):
            logits = model.model(batch["input_ids"][row : row + 1, start:end]).logits[0].float()
            losses.append(F.cross_entropy(logits, batch["labels"][row, start:end], reduction="sum"))
    return float(torch.stack(losses).sum() / sum(batch["num_targets"]))


@contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    _wait()
    start = time.perf_counter()
    yield
    _wait()
    seconds.append(time.perf_counter() - start)


def _wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def _run_in(*command: str) -> None:
    """Run a command in the project's folder, and show all it printed if it fails."""
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise WrongError(
            f"`{' '.join(command)}` ended with {ended.returncode}: {(ended.stdout + ended.stderr)[-1500:]}"
        )


CHECKS = {
    "device": check_device,
    "attention": check_attention,
    "masks": check_masks,
    "kernels": check_kernels,
    "resume": check_resume,
    "export": check_export,
    "packed": check_packed,
}


def main() -> None:
    """Run one check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CHECKS)
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument(
        "--scratch", type=Path, required=True, help="folder for runs; `export` exports that of `resume`"
    )
    parser.add_argument("--json", type=Path, required=True, help="file to write the figures to")
    asked = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        figures = CHECKS[asked.name](asked.size, asked.scratch)
    except LeftOutError as reason:
        figures = {"left_out": str(reason)}
    except WrongError as error:
        sys.exit(str(error))
    asked.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
