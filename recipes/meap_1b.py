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
    from meap.train.ranks import adopt_ranks

    adopt_ranks()  # before Composer is imported, which reads them then

    from meap.data import build_loader, build_mask_rule, open_shards, open_tokenizer
    from meap.schema import TRAIN_SPLIT, VALIDATION_SPLIT
    from meap.storage import use_one_s3_endpoint
    from meap.train.algorithm import build_input_masking
    from meap.train.attention import choose_attention
    from meap.train.fitting import describe, fit, heldout_evaluator
    from meap.train.machine import join_machine
    from meap.train.run_folder import open_run
    from meap.train.start import start_model
    from meap.train.trainer import build_trainer
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

    evaluators = []
    if cfg.train.eval_batches:
        heldout = load(open_shards(cfg.data, VALIDATION_SPLIT), rule=None, shuffle=False)
        evaluators.append(heldout_evaluator(heldout, cfg.train))

    # Model.
    model = start_model(
        cfg.model,
        tokenizer,
        attention=choose_attention(cfg.model.attention, on_gpu=machine.on_gpu, bf16=machine.precision == "amp_bf16"),
        context=cfg.data.seq_len,
        seed=cfg.run.seed,
        weights=machine.start_weights(cfg.train),
    )

    # Training.
    with named_checkpoint_errors(cfg.checkpoint.folder):
        trainer = build_trainer(
            cfg,
            machine,
            model,
            train_loader,
            evaluators=evaluators,
            algorithms=[] if masked_by_dataset else [build_input_masking(cfg.masking, rule)],
            mask_id=tokenizer.mask_id,
            run_dir=run_dir,
        )
    describe(cfg, machine, shards, model)
    fit(trainer)
    trainer.close()


if __name__ == "__main__":
    sys.exit(run_command(TrainingConfig, main, doc=__doc__))
