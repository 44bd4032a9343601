"""How a job is watched, by whoever may read its output. Nothing here changes a row.

- `progress`: what a run has done so far, and the limit on failed recordings that stops it.
- `record`: `run.json` and its history, rewritten while the run works.
- `reporting`: the live line in a terminal, lines in a log.
- `status`: where an output stands, counted in the dataset itself.
- `metrics`: Prometheus counters on the driver's node.
"""
