"""Checkpoints of a run: saved while it trains, and where it resumes. `meap.checkpoints` knows what one is on disk.

saving      when: at intervals, at the end, on a signal    stopping      the signal of one rank reaches all of them
writing     Composer's state -> files                      publishing    files -> place, store, record, in a thread
resuming    the newest intact checkpoint                   model_record  what checkpoints keep beside the weights
trust       Composer may load data only
"""
