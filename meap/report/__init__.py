"""Compares runs: in the terminal, as JSON, and on one page that opens offline.

    folders of runs (`runs`) -> series by step (`series`) -> figures, settings, results side by side (`comparison`)
        -> terminal and JSON (`tables`), or page (`page`)

Reads what training and evaluation wrote into runs/<name>/: metrics.jsonl, config.yaml, versions.json, starts.jsonl and
eval/results.json, of which only the first must be there. To show another metric, add a row to `metrics.METRICS`.
"""
