"""The corpus job: a manifest in, a dataset of diarizations or detections out, on Ray.

Sub-rooms, each of which imports only those before it:

- `inputs`: what goes in. Manifests, sources that are listed into one, shards and what was read of
  them, and the plan of what is to be done.
- `output`: what comes out, which is also the checkpoint. The dataset (its schema, which row of a
  recording counts, its end without duplicates), LocalSpeakers kept for later, other forms.
- `watch`: how a run is seen. Counts and the limit on failures, `run.json`, status, metrics, lines.
- `job`: the run itself. What surrounds it (lock, record, end), its graph and stages, and where
  it is placed.

`hashes` (by which recordings are told apart) and `wire` (how PCM and what is inferred travel as
Arrow values) stand below them, `options` and the commands above.
"""

from importlib import import_module

_HOMES = {
    "dataset": "raydiar.corpus.output.dataset",
    "detections": "raydiar.corpus.output.detections",
    "detect_corpus": "raydiar.corpus.job.run",
    "diarize_corpus": "raydiar.corpus.job.run",
    "resolve_corpus": "raydiar.corpus.job.run",
}

__all__ = list(_HOMES)


def __getattr__(name: str):
    # late: a reader of datasets needs neither the job nor the engine
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(_HOMES[name])
    return home if home.__name__.endswith(f".{name}") else getattr(home, name)
