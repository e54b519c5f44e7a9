"""Pre-train a decoder with Mask-Enhanced Autoregressive Prediction. Size, ratio and start come from the yaml.

    composer recipes/meap_1b.py yamls/tiny.yaml                                # a CPU, about three minutes
    composer recipes/meap_1b.py yamls/1b.yaml data.remote=s3://bucket/c4       # every GPU of this machine
    composer recipes/meap_1b.py yamls/1b_ntp.yaml                              # the control: ratio 0, plain NTP
    composer recipes/meap_1b.py yamls/long/1b_64k.yaml                         # that model further, in rows of 64K
    python recipes/meap_1b.py yamls/1b.yaml --dry-run                          # check all, say what it will take, stop

Reads the shards that dataprep/ wrote, and the model at model.base if there is one; writes <run.dir>: config.yaml,
versions.json, starts.jsonl, data/ (manifests), metrics.jsonl, log.txt, tensorboard/ and checkpoints/. The same command
resumes an interrupted run, on any number of devices that divides the global batch.
"""

from functools import partial

from meap.config import RecipeConfig, run_command
from meap.processes import leave


def main(cfg: RecipeConfig, *, dry_run: bool = False) -> None:
    """Train one model, from shards to the last checkpoint; or only plan that."""
    from meap.train.run import open_run

    with open_run(cfg, dry_run=dry_run) as run:  # first: Composer reads the rank variables at import
        from meap.export.prompting import require_readable
        from meap.manifest import ROWS
        from meap.train.algorithm import masking_algorithms
        from meap.train.callbacks import LRMonitor, MaskingMonitor, Samples, Throughput
        from meap.train.data import open_data
        from meap.train.start import require_exact_model, start_model
        from meap.train.trainer import build_trainer

        require_exact_model(cfg)  # what packed rows are not exact for is refused before any data are read
        data = open_data(cfg, run, kind=ROWS)
        model = start_model(cfg, run, data)
        if cfg.model.base is None and data.continues is None:
            require_readable(data.tokenizer, model.model.config)  # or its export would be refused
        trainer = build_trainer(
            cfg,
            run,
            data,
            model,
            algorithms=masking_algorithms(cfg.masking, data.rule),
            callbacks=[
                MaskingMonitor(mask_id=data.rule.mask_id, interval=data.timetable.log_interval),
                LRMonitor(),
                Samples.of(cfg.train, data, model),
                Throughput.of(cfg, run.machine, model, data.timetable),
            ],
        )
        run.fit(trainer)


def check(cfg: RecipeConfig) -> None:
    """Refuse a configuration that contradicts itself, before the slow imports."""
    from meap.train.preflight import check_config

    check_config(cfg)


if __name__ == "__main__":
    loads = "torch, composer and transformers"
    dry_run = partial(main, dry_run=True)
    leave(run_command, RecipeConfig, main, doc=__doc__, dry_run=dry_run, check=check, loads=loads)
