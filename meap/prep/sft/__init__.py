"""Conversations -> shards of packed rows.

    files -> records         records.py     .json, .jsonl, .parquet; every bad record counted with its place
    records -> messages      messages.py    Alpaca, ShareGPT and OpenAI fields become roles and contents
    messages -> tokens       rendering.py   chat template, tokens, and which of them are an assistant's answer
    tokens -> rows           steps.py       cut to length, held-out split, whole conversations packed into rows
    counts -> a summary      report.py      what was copied, cut and dropped, and how full the rows are

Shards, job, tasks and progress are those of `meap.prep`; `source.py` resolves the configuration, `sample.py` makes
instruction data without a network.
"""
