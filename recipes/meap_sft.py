"""Fine-tune a finished model on conversations, each beside a copy with masked answers.

    composer recipes/meap_sft.py yamls/sft_tiny.yaml                       # a CPU, a minute, on the demo's model
    composer recipes/meap_sft.py yamls/sft_llama3_8b.yaml                  # every GPU of this machine
    composer recipes/meap_sft.py yamls/controls/sft_llama3_8b_ntp.yaml     # the control: rows without copies, plain NTP
    python recipes/meap_sft.py yamls/sft_llama3_8b.yaml --dry-run          # check all, say what it will take, stop

Reads the shards that dataprep/sft_to_mds.py wrote and the model at model.base; writes <run.dir>, as
recipes/meap_1b.py does. The same command resumes an interrupted run, on any number of devices that divides the
global batch.
"""

from functools import partial

from meap.config import RecipeConfig, run_command
from meap.processes import leave


def main(cfg: RecipeConfig, *, dry_run: bool = False) -> None:
    """Tune one model, from shards to the last checkpoint; or only plan that."""
    from meap.train.run import open_run

    with open_run(cfg, dry_run=dry_run) as run:  # first: Composer reads the rank variables at import
        from meap.manifest import CONVERSATIONS
        from meap.train.callbacks import LRMonitor, MaskingMonitor, Samples, Throughput
        from meap.train.data import open_data
        from meap.train.start import require_exact_model, start_model
        from meap.train.trainer import build_trainer

        require_exact_model(cfg)  # what packed rows are not exact for is refused before any data are read
        data = open_data(cfg, run, kind=CONVERSATIONS)  # its loader copies conversations, and masks the copies
        model = start_model(cfg, run, data)
        trainer = build_trainer(
            cfg,
            run,
            data,
            model,
            algorithms=[],
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
    from meap.train.preflight import check_config, require_fine_tuning

    require_fine_tuning(cfg)
    check_config(cfg)


if __name__ == "__main__":
    loads = "torch, composer and transformers"
    dry_run = partial(main, dry_run=True)
    leave(run_command, RecipeConfig, main, doc=__doc__, dry_run=dry_run, check=check, loads=loads)
