"""Conversations -> shards of packed rows.

    records -> messages      records.py     every bad record counted with its place
                             messages.py    four formats become one
                             turns.py       a turn: its role, text, thoughts, calls, and whether it is learned
                             tools.py       functions and their calls, as templates read them
                             fields.py      fields by name: errors with their place; what nobody read
    messages -> text         templates.py   chat templates, run in a sandbox
    text -> tokens           rendering.py   tokens, and which of them are an assistant's answer
    tokens -> rows           steps.py       cut to length, held-out split, whole conversations packed into rows
    counts -> a sentence     report.py      what was copied, cut and dropped, and how full the rows are

Formats, shards, job, tasks and progress are those of `meap.prep`; `source.py` resolves the configuration, `sample.py`
makes instruction data without a network.
"""
