"""Fine-tune a finished model on conversations, each beside a copy with masked answers.

    composer recipes/meap_sft.py yamls/sft_tiny.yaml                       # a CPU, a minute, on the demo's model
    composer recipes/meap_sft.py yamls/sft_llama3_8b.yaml                  # every GPU of this machine
    composer recipes/meap_sft.py yamls/sft_llama3_8b.yaml masking.ratio=0  # the control: no copies, plain NTP
    python recipes/meap_sft.py yamls/sft_llama3_8b.yaml --dry-run          # check all, say what it will take, stop

Reads the shards that dataprep/sft_to_mds.py wrote and the model at model.base; writes <run.dir>, as
recipes/meap_1b.py does. The same command continues an interrupted run, on any number of devices that divides the
global batch.
"""

import sys
from functools import partial

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
    from meap.train.fitting import describe, fit, heldout_evaluator, loader_settings, require_fine_tuning
    from meap.train.machine import join_machine
    from meap.train.preflight import check_settings, check_storage
    from meap.train.provenance import record_start
    from meap.train.resuming import model_to_continue
    from meap.train.run_folder import open_run
    from meap.train.start import start_model
    from meap.train.trainer import build_trainer
    from meap.train.trust import forbid_unpickling, named_checkpoint_errors

    require_fine_tuning(cfg)
    forbid_unpickling()
    use_one_s3_endpoint()
    machine = join_machine(cfg.train)
    check_settings(cfg, machine)
    run_dir = open_run(cfg, is_leader=machine.is_leader)

    # Data: packed conversations -> rows of [original | masked copy].
    shards = open_shards(cfg.data, TRAIN_SPLIT, kind=CONVERSATIONS)
    continues = model_to_continue(cfg, shards)
    tokenizer = open_tokenizer(cfg.tokenizer, shards)
    load = partial(build_sft_loader, cfg.data, sft=cfg.sft, **loader_settings(cfg, machine, run_dir))
    rule = build_mask_rule(cfg.masking, shards.tokenizer, seed=cfg.run.seed)
    train_loader = load(shards, rule=rule, shuffle=cfg.data.shuffle)
    splits, evaluators = [shards], []
    if cfg.train.eval_batches:
        splits.append(open_shards(cfg.data, VALIDATION_SPLIT, kind=CONVERSATIONS))
        evaluators.append(heldout_evaluator(load(splits[-1], rule=None, shuffle=False), cfg.train))

    # Model.
    model = start_model(
        cfg.model,
        tokenizer,
        attention=choose_attention(cfg.model.attention, on_gpu=machine.on_gpu, bf16=machine.precision == "amp_bf16"),
        context=longest_segment(shards, cfg.sft, ratio=cfg.masking.ratio),
        seed=cfg.run.seed,
        weights=machine.start_weights(cfg.train),
        continues=continues,
    )

    # Training.
    check_storage(cfg, machine, shards, num_parameters=model.num_parameters)
    with named_checkpoint_errors(cfg.checkpoint.folder):
        trainer = build_trainer(
            cfg,
            machine,
            model,
            train_loader,
            shards=shards,
            evaluators=evaluators,
            algorithms=[],
            tokenizer=tokenizer,
            run_dir=run_dir,
            has_segments=True,
        )
    describe(cfg, machine, shards, model)
    record_start(run_dir, machine, splits, from_step=int(trainer.state.timestamp.batch))
    fit(trainer)
    trainer.close()


def dry_run(cfg: TrainingConfig) -> None:
    """Check everything, and print what the run will take."""
    from meap.manifest import CONVERSATIONS
    from meap.train.dry_run import rehearse
    from meap.train.fitting import require_fine_tuning

    require_fine_tuning(cfg)
    rehearse(cfg, kind=CONVERSATIONS)


if __name__ == "__main__":
    sys.exit(run_command(TrainingConfig, main, doc=__doc__, dry_run=dry_run))
