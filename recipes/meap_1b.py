"""Pre-train a decoder with Mask-Enhanced Autoregressive Prediction. Sizes and ratio come from the yaml.

    composer recipes/meap_1b.py yamls/tiny.yaml                                # a CPU, about two minutes
    composer recipes/meap_1b.py yamls/1b.yaml data.remote=s3://bucket/c4       # every GPU of this machine
    composer recipes/meap_1b.py yamls/1b_ntp.yaml                              # the control: ratio 0, plain NTP
    python recipes/meap_1b.py yamls/1b.yaml --dry-run                          # check all, say what it will take, stop

Reads the shards that dataprep/ wrote; writes <run.dir>: config.yaml, versions.json, starts.jsonl, data/ (manifests),
metrics.jsonl, log.txt, tensorboard/ and checkpoints/. The same command continues an interrupted run, on any number of
devices that divides the global batch.
"""

from meap.config import TrainingConfig, run_command
from meap.processes import leave


def main(cfg: TrainingConfig) -> None:
    """Train one model, from shards to the last checkpoint."""
    from meap.places.addresses import use_one_s3_endpoint
    from meap.train.preflight import check_settings, check_storage
    from meap.train.ranks import adopt_ranks

    use_one_s3_endpoint()
    check_settings(cfg, adopt_ranks())  # before Composer is imported, which reads the ranks then

    from meap.data import (
        build_heldout_loader,
        build_loader,
        build_mask_rule,
        open_heldout,
        open_shards,
        open_tokenizer,
    )
    from meap.schema import TRAIN_SPLIT
    from meap.train.algorithm import build_input_masking
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

    # Data: shards -> masked batches.
    shards = open_shards(cfg.data, TRAIN_SPLIT)
    continues = model_to_continue(cfg, shards)
    tokenizer = open_tokenizer(cfg.tokenizer, shards)
    timetable = Timetable.of(cfg, shards)
    settings = loader_settings(cfg, machine, run_dir)
    masked_by_dataset = cfg.masking.site == "dataset"
    rule = build_mask_rule(cfg.masking, shards.tokenizer, seed=cfg.run.seed)
    train_loader = build_loader(
        cfg.data,
        shards,
        rule=rule if masked_by_dataset else None,
        seed=cfg.run.seed,
        shuffle=cfg.data.shuffle,
        **settings,
    )
    heldout = open_heldout(cfg.data) if cfg.train.eval_batches else None
    splits, evaluators = [shards], []
    if heldout is not None:
        loader = build_heldout_loader(cfg.data, heldout, num_batches=cfg.train.eval_batches, **settings)
        splits.append(heldout)
        evaluators.append(heldout_evaluator(loader, cfg.train, timetable))

    # Model.
    model = start_model(
        cfg.model,
        tokenizer,
        attention=choose_attention(cfg.model.attention, on_gpu=machine.on_gpu, bf16=machine.precision == "amp_bf16"),
        context=cfg.data.seq_len,
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
            algorithms=[] if masked_by_dataset else [build_input_masking(cfg.masking, rule)],
            tokenizer=tokenizer,
            run_dir=run_dir,
        )
    describe(cfg, machine, shards, model, timetable=timetable, heldout=heldout)
    record_start(run_dir, machine, splits, from_step=int(trainer.state.timestamp.batch), steps=timetable.steps)
    fit(trainer)
    trainer.close()


def check(cfg: TrainingConfig) -> None:
    """What can be told from the configuration alone."""
    from meap.train.preflight import check_configuration

    check_configuration(cfg)


def dry_run(cfg: TrainingConfig) -> None:
    """Check everything, and print what the run will take."""
    from meap.train.dry_run import rehearse

    rehearse(cfg)


if __name__ == "__main__":
    loads = "torch, composer and transformers"
    leave(run_command(TrainingConfig, main, doc=__doc__, dry_run=dry_run, check=check, loads=loads))
