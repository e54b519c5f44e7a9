"""Masked batches -> loss -> checkpoint, on Composer.

run          a run opened: settings checked, ranks joined, its folder; with --dry-run, one that only plans
data         what it reads                     start/       fresh weights, or a finished model's
trainer      all of it in Composer's Trainer   fitting      the fit

ranks        which rank this process is        machine      device and precision, joining the other ranks
preflight    mistakes, found before step 1     run_folder   its log; what must not change on resuming
plan, flops  what a run will take              timetable    durations and intervals in steps
header       what a run prints at its start    provenance   where it comes from, start by start

model, loss  the network and its loss          attention    attention for packed rows
algorithm    masking in the training process   schedule     its ratio over training
optim        AdamW and its schedule            speed        torch.compile, Liger's kernels
lora         adapters beside a frozen base     roll_call    which ranks do not answer

callbacks/   what is measured                  loggers/     console, a file, TensorBoard, W&B, MLflow
checkpoints/ saving, resuming, stopping        pinned/      what leans on Composer's internals
"""

from meap.extras import require_packages

require_packages("meap.train", "composer", "rich", "torch", "torchmetrics", "transformers", "xxhash", extra="train")
