"""Pre-train a decoder with Mask-Enhanced Autoregressive Prediction. Sizes and ratio come from the yaml.

    composer recipes/meap_1b.py yamls/tiny.yaml                                # a CPU, about two minutes
    composer recipes/meap_1b.py yamls/1b.yaml data.remote=s3://bucket/c4       # every GPU of this machine
    composer recipes/meap_1b.py yamls/1b_ntp.yaml                              # the control: ratio 0, plain NTP

Reads the shards that dataprep/ wrote; writes <run.dir>: config.yaml, metrics.jsonl and checkpoints/. The same command
continues an interrupted run, on any number of devices that divides the global batch.
"""

import sys
from functools import partial
from pathlib import Path

from meap.config import TrainingConfig, run_command


def main(cfg: TrainingConfig) -> None:
    """Train one model, from shards to the last checkpoint."""
    from composer import Trainer
    from composer.algorithms import GradientClipping
    from composer.callbacks import LRMonitor, SpeedMonitor
    from composer.core import Algorithm, Time

    from meap.data import build_loader, build_mask_rule, open_shards, open_tokenizer
    from meap.schema import TRAIN_SPLIT, VALIDATION_SPLIT
    from meap.storage import use_one_s3_endpoint
    from meap.train.algorithm import InputMasking
    from meap.train.attention import choose_attention
    from meap.train.callbacks import MaskingMonitor, MetricsFile, ProgressLines
    from meap.train.fitting import checkpointing, describe, fit, heldout_evaluator, packed_rows
    from meap.train.machine import join_machine
    from meap.train.model import build_model, llama_config
    from meap.train.optim import build_optimizer, build_scheduler
    from meap.train.run_folder import METRICS_NAME, open_run
    from meap.train.trust import forbid_unpickling, named_checkpoint_errors

    forbid_unpickling()
    use_one_s3_endpoint()
    machine = join_machine(cfg.train)
    run_dir = open_run(cfg, is_leader=machine.is_leader)

    # Data: shards -> masked batches.
    shards = open_shards(cfg.data, TRAIN_SPLIT)
    tokenizer = open_tokenizer(cfg.tokenizer, shards)
    load = partial(
        build_loader,
        cfg.data,
        seed=cfg.run.seed,
        global_batch_size=cfg.train.global_batch_size,
        world_size=machine.world_size,
        cache_dir=Path(cfg.data.cache_dir or run_dir / "cache"),
    )
    masked_by_dataset = cfg.masking.site == "dataset"
    rule = build_mask_rule(cfg.masking, shards.tokenizer, seed=cfg.run.seed)
    train_loader = load(shards, rule=rule if masked_by_dataset else None, shuffle=cfg.data.shuffle)

    # Model and optimiser.
    attention = choose_attention(cfg.model.attention, on_gpu=machine.on_gpu, bf16=machine.precision == "amp_bf16")
    architecture = llama_config(
        cfg.model,
        vocab_size=tokenizer.vocab_size,
        seq_len=cfg.data.seq_len,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
    )
    model = build_model(architecture, attention=attention, seed=cfg.run.seed)
    optimizer = build_optimizer(cfg.optimizer, model, fused=machine.on_gpu)

    # The method, and what is watched.
    algorithms: list[Algorithm] = (
        [GradientClipping("norm", cfg.optimizer.grad_clip_norm)] if cfg.optimizer.grad_clip_norm else []
    )
    if not masked_by_dataset:
        algorithms.append(InputMasking(rule, preset=cfg.masking.preset))
    interval = Time.from_timestring(cfg.train.log_interval).value
    evaluators = []
    if cfg.train.eval_batches:
        heldout = load(open_shards(cfg.data, VALIDATION_SPLIT), rule=None, shuffle=False)
        evaluators.append(heldout_evaluator(heldout, cfg.train))

    with named_checkpoint_errors(cfg.checkpoint.folder):
        trainer = Trainer(
            model=model,
            train_dataloader=packed_rows(train_loader),
            eval_dataloader=evaluators,
            max_duration=cfg.train.max_duration,
            optimizers=optimizer,
            algorithms=algorithms,
            callbacks=[
                build_scheduler(cfg.scheduler),
                MaskingMonitor(mask_id=tokenizer.mask_id, interval=interval),
                LRMonitor(),
                SpeedMonitor(window_size=10),
            ],
            loggers=[
                ProgressLines(interval=interval, tokens_per_batch=cfg.train.global_batch_size * cfg.data.seq_len),
                MetricsFile(run_dir / METRICS_NAME),
            ],
            device=machine.device,
            precision=machine.precision,
            device_train_microbatch_size=min(
                cfg.train.microbatch_size, cfg.train.global_batch_size // machine.world_size
            ),
            accumulate_train_batch_on_tokens=True,
            seed=cfg.run.seed,
            progress_bar=False,
            **checkpointing(cfg.checkpoint, cfg.run),
        )
    describe(cfg, machine, shards, model)
    fit(trainer)
    trainer.close()


if __name__ == "__main__":
    sys.exit(run_command(TrainingConfig, main, doc=__doc__))
