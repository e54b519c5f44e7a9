"""Masked batches -> loss -> checkpoint, on Composer.

ranks        which rank this process is      machine             device, precision, joining the others
attention    attention for packed rows       model, loss         the network and its loss
algorithm    masking in the training process callbacks/          what a run measures and shows
start/       fresh weights, or a finished model's                trust    checkpoints never run code
optim        AdamW and its schedule          fitting             token counts, fit
saving       checkpoints while training      writing             state -> files
resuming     the newest intact checkpoint    stopping            SIGTERM lets all ranks save and leave
run_folder   what a resumed run must not change                  trainer  all of it in Composer's Trainer
preflight    mistakes, found before step 1   loggers/            a file, TensorBoard, W&B, MLflow
dry_run      what a run will take (plan)     provenance          where it comes from, start by start
"""

from meap.extras import require_packages

require_packages("meap.train", "composer", "rich", "torch", "torchmetrics", "transformers", "xxhash", extra="train")
