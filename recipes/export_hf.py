"""Export a run's checkpoint as a Hugging Face folder, which inference needs nothing of this project to use.

    python recipes/export_hf.py yamls/tiny.yaml                                          # the run's newest checkpoint
    python recipes/export_hf.py yamls/tiny.yaml export.checkpoint=runs/tiny/checkpoints/ba200.pt
    python recipes/export_hf.py yamls/sft_tiny.yaml export.keep_mask=false                # the base's own vocabulary
    python recipes/export_hf.py yamls/sft_qwen2.5_14b.yaml export.dtype=bf16              # half the size
    python recipes/export_hf.py yamls/sft_llama3_8b_lora.yaml export.lora=adapter         # adapters alone, for peft
    python recipes/export_hf.py run.dir=/elsewhere/1b                                     # a run that was moved
    python recipes/export_hf.py yamls/1b.yaml checkpoint.folder=s3://bucket/1b export.out_dir=/models/meap-1b

Reads a checkpoint, its record, which alone decides the architecture, and the tokenizer beside it: neither the run's
data nor its base has to be there, and the run may have been moved. Where the tokenizer is lost, give tokenizer.name.
Only of a run with adapters (LoRA) the base is read, from model.base.
Writes <export.out_dir>: model.safetensors (several with an index, where there is more than <export.max_shard_size>),
config.json, generation_config.json, the tokenizer (by default with its mask token), README.md and meap_export.json;
loaded back and compared before it is moved into place, for which memory holds it twice in fp32.
"""

from pathlib import Path

from meap.config import RecipeConfig, run_command
from meap.processes import leave


def main(cfg: RecipeConfig) -> None:
    """Find, load, write, verify."""
    from meap.checkpoints import find_checkpoint
    from meap.checkpoints.reading import (
        load_weights,
        local_copy,
        read_checkpoint,
        read_record,
        recorded_config,
        recorded_tokenizer,
        rows_without_mask,
    )
    from meap.export.adapter import export_adapter
    from meap.export.hf import ExportSource, export_model, require_replaceable
    from meap.places.addresses import use_one_s3_endpoint
    from meap.processes import raise_on_signals
    from meap.train.attention import choose_attention
    from meap.train.lora import adapters_of, merge_adapters
    from meap.train.start import adapted_model, recorded_model, require_exportable

    raise_on_signals()  # Composer took the signals when it was imported, and would exit without a message
    use_one_s3_endpoint()

    # The run: its checkpoint, and the configuration it was trained with, whatever the yaml says today.
    location = cfg.export.checkpoint or find_checkpoint(cfg.checkpoint.folder)
    record = read_record(location)
    run = recorded_config(record, location)
    out_dir = require_replaceable(cfg.export.out_dir, run.run.name)
    print(f"checkpoint  {location}\nrun         {run.run.name}", flush=True)
    tokenizer = recorded_tokenizer(record, location, otherwise=cfg.tokenizer)
    with local_copy(location) as path:
        checkpoint = read_checkpoint(path)

    # The model as it was trained, with its own attention: what the exported folder is compared with.
    attention = choose_attention("sdpa", on_gpu=False, bf16=False)
    run = require_exportable(cfg, run, record.model)
    as_adapter, adapted = cfg.export.lora == "adapter", record.model.base_fingerprint is not None
    if adapted:
        model = adapted_model(run, record.model, tokenizer, attention=attention, as_trained=not as_adapter)
    else:
        model = recorded_model(record.model, attention=attention)
    load_weights(model, checkpoint)

    source = ExportSource(
        run=run.run.name,
        checkpoint=checkpoint.name,
        step=checkpoint.step,
        tokens=checkpoint.tokens,
        masking_ratio=run.masking.largest_ratio,
        replacement=run.masking.last_replacement,
        reversed_ratio=run.masking.reversed_ratio,
        base=run.model.base,
    )
    if as_adapter:
        largest = export_adapter(
            model.model,
            *adapters_of(model),
            tokenizer,
            Path(out_dir),
            source,
            usage=record.model.usage,
            with_mask=record.model.rows_without_mask is None,
        )
        print(
            f"model       {model.num_trained:,} parameters of adapters, step {checkpoint.step}, for {run.model.base}\n"
            f"verified    largest difference of a logit {largest:.1e} (peft beside the base against training's)\n"
            f"written     {out_dir}",
            flush=True,
        )
        return
    if adapted:
        merge_adapters(model)
    drop_mask_to = None if cfg.export.keep_mask else rows_without_mask(record)
    done = export_model(
        model.model,
        tokenizer,
        Path(out_dir),
        source,
        usage=record.model.usage,
        dtype=cfg.export.dtype,
        max_shard_size=cfg.export.max_shard_size,
        drop_mask_to=drop_mask_to,
    )
    rounding = f", whose rounding changes logits by {done.rounding:.1%} of their spread" if done.rounding else ""
    print(
        f"model       {done.parameters:,} parameters, step {checkpoint.step}\n"
        f"weights     {done.dtype}{rounding}\n"
        f"verified    largest difference of a logit {done.max_abs_diff:.1e} (transformers' own against training's)\n"
        f"written     {out_dir}",
        flush=True,
    )


def check(cfg: RecipeConfig) -> None:
    """Refuse a configuration that contradicts itself, before the slow imports."""
    from meap.checkpoints import require_checkpoint, require_checkpoint_at
    from meap.config.checks import require_writable_folder
    from meap.places.addresses import is_url, require_plain_url

    require_plain_url("checkpoint.folder", cfg.checkpoint.folder)
    require_plain_url("export.checkpoint", cfg.export.checkpoint or "")
    require_writable_folder("export.out_dir", cfg.export.out_dir)
    if is_url(cfg.export.checkpoint or cfg.checkpoint.folder):
        return  # it is asked when it is opened
    if cfg.export.checkpoint:
        require_checkpoint_at(cfg.export.checkpoint)
    else:
        require_checkpoint(cfg.checkpoint.folder)


def subject(cfg: RecipeConfig) -> str:
    """What is exported, by its place: its name is known when its checkpoint is read."""
    if cfg.export.checkpoint:
        return cfg.export.checkpoint
    is_in_run = cfg.checkpoint.folder == f"{cfg.run.dir}/checkpoints"
    return f"run {Path(cfg.run.dir).resolve().name}" if is_in_run else cfg.checkpoint.folder


if __name__ == "__main__":
    loads = "torch, composer and transformers"
    leave(run_command, RecipeConfig, main, doc=__doc__, check=check, loads=loads, subject=subject, outlives_reader=True)
