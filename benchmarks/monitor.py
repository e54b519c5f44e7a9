"""What the monitor of masks and the masking Algorithm cost a training step, measured against the same step without.

    python benchmarks/monitor.py

Trains the 1.1B model (two micro-batches of 8 rows of 4,096 tokens, bf16) on this machine's GPU, or else a small Llama
(two layers of 128, two micro-batches of 4 rows of 128 tokens) on one core. Steps with and without take turns, in
changing order, and each pair gives a ratio; the median over pairs is printed, with that of pairs of equal steps, which
shows the noise of the machine, and with the host's time per step inside the measured part. On a CPU processor time is
measured, which other processes hardly affect; on a GPU it is wall time. One process, no loader, no logger.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

PAIRS, WARM_UP, MICROBATCHES, INTERVAL = 60, 5, 2, 10


def main() -> int:
    """Measure and print."""
    import torch

    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, Python {platform.python_version()}, torch {torch.__version__}\n")
    plain, monitored, masked = steps(device)
    report("nothing (two equal steps)", plain, plain, device)
    report("MaskingMonitor", monitored, plain, device)
    report("InputMasking", masked, plain, device)
    return 0


def steps(device: Any) -> tuple[Callable[[], float], Callable[[], float], Callable[[], float]]:
    """A plain training step, one with the monitor, one masked; each returns the host's seconds in what it adds."""
    import torch
    from composer.core import Event, Timestamp

    from meap.config import ModelConfig
    from meap.masking import MaskRule
    from meap.train.algorithm import InputMasking
    from meap.train.attention import choose_attention
    from meap.train.callbacks import MaskingMonitor
    from meap.train.model import build_model, decoder_config

    on_gpu = device.type == "cuda"
    if on_gpu:
        sizes, rows, seq_len, vocab = ModelConfig(), 16, 4_096, 32_064  # the defaults are the paper's 1.1B
    else:
        sizes = ModelConfig(
            hidden_size=128, intermediate_size=344, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2
        )
        rows, seq_len, vocab = 8, 128, 2_048
    attention = choose_attention("auto", on_gpu=on_gpu, bf16=on_gpu)
    model = build_model(decoder_config(sizes, vocab_size=vocab, seq_len=seq_len), attention=attention, seed=0).to(
        device
    )
    optimizer = torch.optim.AdamW(model.parameters(), fused=on_gpu)
    rule = MaskRule(mask_id=vocab - 1, ratio=0.15, seed=17)
    tokens = torch.randint(3, vocab - 1, (rows, seq_len + 1), generator=torch.Generator().manual_seed(0))
    clean = {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:], "sample_id": torch.arange(rows)}
    inputs = rule.apply(clean["input_ids"], clean["sample_id"], epoch=0)

    algorithm = InputMasking(rule)
    monitor = MaskingMonitor(mask_id=rule.mask_id, interval=INTERVAL)
    state: Any = SimpleNamespace(batch=None, outputs=None, timestamp=Timestamp())
    logger: Any = SimpleNamespace(log_metrics=lambda *_, **__: None)

    def step(*, watch: bool, mask: bool) -> float:
        added = 0.0
        state.timestamp = state.timestamp.to_next_batch()
        state.batch = clean if mask else {**clean, "input_ids": inputs}
        if mask:
            added += seconds_of(lambda: algorithm.apply(Event.AFTER_DATALOADER, state, logger))
        batch = state.batch
        optimizer.zero_grad()
        for numbers in torch.arange(rows).chunk(MICROBATCHES):
            state.batch = {column: values[numbers].to(device) for column, values in batch.items()}
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=on_gpu):
                state.outputs = model(state.batch)
            if watch:
                added += seconds_of(lambda: monitor.after_forward(state, logger))
            (state.outputs["loss"] / MICROBATCHES).backward()
        optimizer.step()
        if watch:
            added += seconds_of(lambda: monitor.batch_end(state, logger))
        return added

    return (
        lambda: step(watch=False, mask=False),
        lambda: step(watch=True, mask=False),
        lambda: step(watch=False, mask=True),
    )


def report(name: str, changed: Callable[[], float], plain: Callable[[], float], device: Any) -> None:
    """Time both in turn; print the median ratio over pairs, and the host's time in what was added."""
    import torch

    pairs: list[tuple[float, float]] = []
    inside: list[float] = []

    def timed(run: Callable[[], float]) -> float:
        def until_done() -> None:
            inside.append(run())
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return seconds_of(until_done)

    for number in range(WARM_UP + PAIRS):
        if number % 2:
            one, other = timed(changed), timed(plain)
        else:
            other, one = timed(plain), timed(changed)
        if number >= WARM_UP:
            pairs.append((one, other))
    ratios = sorted(one / other for one, other in pairs)
    median, quarter = statistics.median(ratios), len(ratios) // 4
    base = statistics.median(other for _, other in pairs)
    added = statistics.median([seconds for seconds in inside if seconds] or [0.0])
    print(
        f"{name:<26} step with / without {median:.3f} (middle half {ratios[quarter]:.3f} to {ratios[-quarter - 1]:.3f})"
        f", host {added * 1e6:.0f} us of {base * 1e3:.1f} ms ({added / base:.2%})",
        flush=True,
    )


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds that `run` takes on the host."""
    import torch

    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    started = clock()
    run()
    return clock() - started


if __name__ == "__main__":
    sys.exit(main())
