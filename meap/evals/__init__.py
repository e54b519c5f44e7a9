"""Hugging Face folder -> numbers and pictures.

    lm           what a task may ask of a model             hugging_face   a model of transformers behind it
    task         what a task is given and returns           scoring        numbers with intervals
    perplexity   held-out loss                              key_retrieval  facts looked up in a passage
    runner       the table of tasks, results.json           pictures       summary.png

To add a task: one file with `check(inputs)` and `evaluate(inputs) -> TaskResult`, a panel for it in `pictures`, and its
row in `runner.TASKS`.
"""
