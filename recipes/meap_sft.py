"""Fine-tune a finished model on conversations, each beside a copy with masked answers.

    composer recipes/meap_sft.py yamls/sft_tiny.yaml                       # a CPU, a minute, on the demo's model
    composer recipes/meap_sft.py yamls/sft_llama3_8b.yaml                  # every GPU of this machine
    composer recipes/meap_sft.py yamls/sft_llama3_8b.yaml masking.ratio=0  # the control: no copies, plain NTP

Reads the shards that dataprep/sft_to_mds.py wrote and the model at model.base; writes <run.dir>: config.yaml,
metrics.jsonl and checkpoints/. The same command continues an interrupted run, on any number of devices that divides the
global batch.
"""

import sys
from functools import partial
from pathlib import Path

from meap.config import TrainingConfig, run_command


def main(cfg: TrainingConfig) -> None:
    """Tune one model, from shards to the last checkpoint."""
    from meap.train.ranks import adopt_ranks

    adopt_ranks()  # before Composer is imported, which reads them then

    from meap.data import build_mask_rule, build_sft_loader, longest_segment, open_shards, open_tokenizer
    from meap.manifest import CONVERSATIONS
    from meap.schema import TRAIN_SPLIT, VALIDATION_SPLIT
    from meap.storage import use_one_s3_endpoint
    from meap.train.attention import choose_attention
    from meap.train.fitting import describe, fit, heldout_evaluator, require_fine_tuning
    from meap.train.machine import join_machine
    from meap.train.run_folder import open_run
    from meap.train.start import start_model
    from meap.train.trainer import build_trainer
    from meap.train.trust import forbid_unpickling, named_checkpoint_errors

    require_fine_tuning(cfg)
    forbid_unpickling()
    use_one_s3_endpoint()
    machine = join_machine(cfg.train)
    run_dir = open_run(cfg, is_leader=machine.is_leader)

    # Data: packed conversations -> rows of [original | masked copy].
    shards = open_shards(cfg.data, TRAIN_SPLIT, kind=CONVERSATIONS)
    tokenizer = open_tokenizer(cfg.tokenizer, shards)
    load = partial(
        build_sft_loader,
        cfg.data,
        sft=cfg.sft,
        seed=cfg.run.seed,
        global_batch_size=cfg.train.global_batch_size,
        world_size=machine.world_size,
        cache_dir=Path(cfg.data.cache_dir or run_dir / "cache"),
    )
    rule = build_mask_rule(cfg.masking, shards.tokenizer, seed=cfg.run.seed)
    train_loader = load(shards, rule=rule, shuffle=cfg.data.shuffle)
    evaluators = []
    if cfg.train.eval_batches:
        heldout = load(open_shards(cfg.data, VALIDATION_SPLIT, kind=CONVERSATIONS), rule=None, shuffle=False)
        evaluators.append(heldout_evaluator(heldout, cfg.train))

    # Model.
    model = start_model(
        cfg.model,
        tokenizer,
        attention=choose_attention(cfg.model.attention, on_gpu=machine.on_gpu, bf16=machine.precision == "amp_bf16"),
        context=longest_segment(shards, cfg.sft, ratio=cfg.masking.ratio),
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
            algorithms=[],
            mask_id=tokenizer.mask_id,
            run_dir=run_dir,
        )
    describe(cfg, machine, shards, model)
    fit(trainer)
    trainer.close()


if __name__ == "__main__":
    sys.exit(run_command(TrainingConfig, main, doc=__doc__))
