"""Masked batches -> loss -> checkpoint, on Composer.

ranks        which rank this process is      machine             device, precision, joining the others
attention    attention for packed rows       model               the network and its loss
algorithm    masking in the training process callbacks           what a run says about itself
start        fresh weights, or a finished model's                trust    checkpoints never run code
optim        AdamW and its schedule          fitting             checkpoints, token counts, fit
run_folder   what a resumed run must not change                  trainer  all of it in Composer's Trainer
"""
