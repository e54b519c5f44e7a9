"""Fine-tune a finished model on conversations, each beside a copy with masked answers.

    composer recipes/meap_sft.py yamls/sft_tiny.yaml                       # a CPU, a minute, on the demo's model
    composer recipes/meap_sft.py yamls/sft_llama3_8b.yaml                  # every GPU of this machine
    composer recipes/meap_sft.py yamls/sft_llama3_8b.yaml masking.ratio=0  # the control: no copies, plain NTP
    python recipes/meap_sft.py yamls/sft_llama3_8b.yaml --dry-run          # check all, say what it will take, stop

Reads the shards that dataprep/sft_to_mds.py wrote and the model at model.base; writes <run.dir>, as
recipes/meap_1b.py does. The same command continues an interrupted run, on any number of devices that divides the
global batch.
"""

from meap.config import TrainingConfig, run_command
from meap.processes import leave


def main(cfg: TrainingConfig) -> None:
    """Tune one model, from shards to the last checkpoint."""
    from meap.places.addresses import use_one_s3_endpoint
    from meap.train.preflight import check_settings, check_storage
    from meap.train.ranks import adopt_ranks

    use_one_s3_endpoint()
    check_settings(cfg, adopt_ranks())  # before Composer is imported, which reads the ranks then

    from meap.data import (
        build_heldout_loader,
        build_mask_rule,
        build_sft_loader,
        longest_segment,
        open_heldout,
        open_shards,
        open_tokenizer,
    )
    from meap.manifest import CONVERSATIONS
    from meap.schema import TRAIN_SPLIT
    from meap.train.attention import choose_attention
    from meap.train.fitting import describe, fit, heldout_evaluator, loader_settings
    from meap.train.machine import join_machine
    from meap.train.provenance import record_start
    from meap.train.resuming import model_to_continue
    from meap.train.run_folder import open_run
    from meap.train.start import start_model
    from meap.train.timetable import Timetable
    from meap.train.trainer import build_trainer
    from meap.train.trust import forbid_unpickling, named_checkpoint_errors

    forbid_unpickling()
    machine = join_machine(cfg.train)
    run_dir = open_run(cfg, is_leader=machine.is_leader)

    # Data: packed conversations -> rows of [original | masked copy].
    shards = open_shards(cfg.data, TRAIN_SPLIT, kind=CONVERSATIONS)
    continues = model_to_continue(cfg, shards)
    tokenizer = open_tokenizer(cfg.tokenizer, shards)
    timetable = Timetable.of(cfg, shards)
    settings = loader_settings(cfg, machine, run_dir)
    rule = build_mask_rule(cfg.masking, shards.tokenizer, seed=cfg.run.seed)
    train_loader = build_sft_loader(
        cfg.data,
        shards,
        cfg.sft,
        rule=rule,
        seed=cfg.run.seed,
        shuffle=cfg.data.shuffle,
        **settings,
    )
    heldout = open_heldout(cfg.data, kind=CONVERSATIONS) if cfg.train.eval_batches else None
    splits, evaluators = [shards], []
    if heldout is not None:
        loader = build_heldout_loader(cfg.data, heldout, sft=cfg.sft, num_batches=cfg.train.eval_batches, **settings)
        splits.append(heldout)
        evaluators.append(heldout_evaluator(loader, cfg.train, timetable))

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
    check_storage(cfg, machine, timetable, num_parameters=model.num_parameters)
    with named_checkpoint_errors(cfg.checkpoint.folder):
        trainer = build_trainer(
            cfg,
            machine,
            model,
            train_loader,
            shards=shards,
            timetable=timetable,
            evaluators=evaluators,
            algorithms=[],
            tokenizer=tokenizer,
            run_dir=run_dir,
            has_segments=True,
        )
    describe(cfg, machine, shards, model, timetable=timetable, heldout=heldout)
    record_start(run_dir, machine, splits, from_step=int(trainer.state.timestamp.batch), steps=timetable.steps)
    fit(trainer)
    trainer.close()


def check(cfg: TrainingConfig) -> None:
    """What can be told from the configuration alone."""
    from meap.train.preflight import check_configuration, require_fine_tuning

    require_fine_tuning(cfg)
    check_configuration(cfg)


def dry_run(cfg: TrainingConfig) -> None:
    """Check everything, and print what the run will take."""
    from meap.manifest import CONVERSATIONS
    from meap.train.dry_run import rehearse

    rehearse(cfg, kind=CONVERSATIONS)


if __name__ == "__main__":
    loads = "torch, composer and transformers"
    leave(run_command(TrainingConfig, main, doc=__doc__, dry_run=dry_run, check=check, loads=loads))
