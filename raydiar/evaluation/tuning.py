"""Search of a pipeline's hyper-parameters on recordings with references.

The networks run once, as a corpus job that keeps its LocalSpeakers; every trial only clusters
again. Since a trial keeps the errors of each recording, cross-validation costs nothing more: for
each fold, the trial that is best on the other folds is scored on this one. What remains of the
gain there is what may be hoped for on recordings that were not searched on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from raydiar.clustering import PLDA, resolve
from raydiar.clustering.parameters import AgglomerativeParameters, VBxParameters
from raydiar.errors import ConfigError, EvaluationError
from raydiar.evaluation.diarization import diarization_errors
from raydiar.evaluation.references import References, manifest_folder
from raydiar.evaluation.scoring import NO_COLLAR, Conditions
from raydiar.evaluation.significance import Difference, difference
from raydiar.local_speakers import LocalSpeakers
from raydiar.pipelines.config import LocalPipeline, PipelineConfig
from raydiar.pipelines.config_file import load_config, write_config
from raydiar.storage.folder import Folder

NUM_FOLDS = 5
_EUCLIDEAN = ("centroid", "median", "ward")


def search_space(config: PipelineConfig) -> dict[str, tuple]:
    """What is searched: parameters by dotted name, each with kind, least and greatest value."""
    space: dict[str, tuple] = {"segmentation.min_duration_off": ("uniform", 0.0, 1.0)}
    clustering = config.clustering
    if config.counting is not None:
        space["counting.speech"] = ("uniform", 0.1, 0.6)
        space["counting.overlap"] = ("uniform", 0.1, 0.6)
    if isinstance(clustering, AgglomerativeParameters):
        greatest = 1.4 if clustering.method in _EUCLIDEAN else 1.0
        space["clustering.threshold"] = ("uniform", 0.3, greatest)
        space["clustering.min_cluster_size"] = ("log-integer", 1, 40)
    elif isinstance(clustering, VBxParameters):
        space["clustering.threshold"] = ("uniform", 0.3, 1.0)
        space["clustering.Fa"] = ("log", 0.01, 1.0)
        space["clustering.Fb"] = ("log", 0.1, 30.0)
    return space


def nested(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Dotted names as pyannote nests them."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        group, _, parameter = name.partition(".")
        groups.setdefault(group, {})[parameter] = value
    return groups


@dataclass(frozen=True)
class Objective:
    """Errors of every recording under given parameters; can be sent to another process.

    Parameters
    ----------
    kept : Folder
        LocalSpeakers of a corpus job, whose rows name references.
    pipeline : LocalPipeline
    conditions : Conditions
    folder : str
        Of the manifest, see `References`.
    """

    kept: Folder
    pipeline: LocalPipeline
    conditions: Conditions = NO_COLLAR
    folder: str = "."

    @cached_property
    def recordings(self) -> list[tuple[dict, LocalSpeakers, tuple, list | None]]:
        """Rows, LocalSpeakers, true turns and scored regions, in order of ids."""
        from raydiar.corpus.output.kept import read_local_speakers

        references = References(self.folder)
        found = []
        for recording, local in read_local_speakers(self.kept):
            truth, regions = references.of(recording)
            found.append((recording, local, truth.turns, regions))
        return sorted(found, key=lambda each: each[0]["recording_id"])

    @cached_property
    def plda(self) -> PLDA | None:
        return PLDA.load(self.pipeline.plda) if self.pipeline.plda else None

    def names(self) -> list[str]:
        return [recording["recording_id"] for recording, *_ in self.recordings]

    def __call__(self, values: dict[str, Any]) -> tuple[list[float], list[float]]:
        """
        Parameters
        ----------
        values : dict
            Parameters by dotted name.

        Returns
        -------
        errors, totals : list of float, s
            Of each recording.

        Raises
        ------
        ConfigError
            If the pipeline has no such parameters.
        """
        config = self.pipeline.config.with_parameters(nested(values))
        errors, totals = [], []
        for recording, local, truth, regions in self.recordings:
            found = resolve(
                local,
                config.clustering,
                plda=self.plda,
                num_speakers=recording["num_speakers"],
                min_speakers=recording["min_speakers"],
                max_speakers=recording["max_speakers"],
                min_duration_off=config.min_duration_off,
                counting=config.counting,
            )
            shift = recording["start"] or 0.0
            scored = diarization_errors(
                truth,
                found.shifted(shift).turns,
                regions or [(shift, shift + local.duration)],
                self.conditions.collar,
                self.conditions.skip_overlap,
            )
            errors.append(scored.errors)
            totals.append(scored.total)
        return errors, totals


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes
    ----------
    parameters : dict
        The best, by dotted name.
    before, after : float
        Diarization error rate with the pipeline's own parameters, and the best, on the recordings
        that were searched on.
    expected : float
        The rate on recordings that were not: cross-validated.
    held : Difference
        Cross-validated rate minus that of the pipeline's own parameters.
    num_trials, num_recordings : int
    """

    parameters: dict[str, Any]
    before: float
    after: float
    expected: float
    held: Difference = field(repr=False)
    num_trials: int = 0
    num_recordings: int = 0

    def __str__(self) -> str:
        chosen = ", ".join(f"{name} = {value:.4g}" for name, value in self.parameters.items())
        lines = [
            f"{self.num_trials} trials on {self.num_recordings} recordings: {chosen}",
            f"DER {self.before:.2%} before, {self.after:.2%} after, on the same recordings",
            f"expected on others: {self.expected:.2%} ({100 * self.held.value:+.2f} points, "
            f"{100 * self.held.low:+.2f} to {100 * self.held.high:+.2f}; cross-validated)",
        ]
        if self.held.high >= 0:
            lines.append("that is no more than chance: keep the parameters you have")
        return "\n".join(lines)


def tune(
    objective: Objective,
    storage: Path,
    num_trials: int = 100,
    *,
    run: Callable[[Sequence[dict]], Iterator[tuple[list[float], list[float]]]] | None = None,
    at_once: int = 1,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> Tuned:
    """Search until a study holds so many trials; one that was stopped is continued.

    Parameters
    ----------
    storage : Path
        Journal of the study, new or of an earlier search of the same recordings and pipeline.
    num_trials : int
        In all, those of earlier runs included; the first is the pipeline as it is.
    run : callable, optional
        Maps parameters to the objective's results, in order, e.g. on Ray.
    at_once : int
        Trials asked for together.

    Raises
    ------
    ConfigError
        If the pipeline has nothing to search, optuna is missing, or the study is another's.
    EvaluationError
        With fewer than two recordings.
    """
    optuna = _optuna()
    config = objective.pipeline.config
    space = search_space(config)
    names = objective.names()
    if len(names) < 2:
        raise EvaluationError(f"a search needs two recordings or more, there are {len(names)}")
    run = run or (lambda batch: map(objective, batch))
    backend = optuna.storages.journal.JournalFileBackend(str(storage))
    study = optuna.create_study(
        study_name="raydiar",
        storage=optuna.storages.JournalStorage(backend),
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=at_once > 1),
        load_if_exists=True,
    )
    _check_same(study, objective, names, storage)
    own = _own(config, space)
    if not study.trials:
        study.enqueue_trial(own)
    finished = [trial for trial in study.trials if trial.state.is_finished()]
    while len(finished) < num_trials:
        batch = [study.ask() for _ in range(min(at_once, num_trials - len(finished)))]
        asked = [_suggest(trial, space) for trial in batch]
        for trial, (errors, totals) in zip(batch, run(asked), strict=True):
            trial.set_user_attr("errors", errors)
            trial.set_user_attr("totals", totals)
            study.tell(trial, sum(errors) / max(sum(totals), 1e-9))
        finished = [trial for trial in study.trials if trial.state.is_finished()]
        if len(finished) % 10 < at_once:
            report(f"{len(finished)} of {num_trials} trials, DER {study.best_value:.2%}")
    return _summary(finished, own, len(names))


def prepare_objective(
    manifest: str,
    into: Path,
    pipeline: str | None = None,
    *,
    conditions: Conditions = NO_COLLAR,
    device: str = "auto",
    token: str | None = None,
    report: Callable[[str], None] = print,
) -> Objective:
    """Run the networks over a labelled manifest, or what is left of it.

    Parameters
    ----------
    manifest : str
        With a column `rttm`, and `uem` where only parts are scored; see `References`.
    into : Path
        Folder: `diarization` (the dataset with the pipeline as it is), `local` (LocalSpeakers).
    pipeline : str, optional
        See `raydiar.pipelines.config_file.load_config`.

    Raises
    ------
    EvaluationError, ConfigError, ManifestError, JobFailed
    """
    from raydiar.corpus.inputs.manifest import read_manifest
    from raydiar.corpus.job.run import diarize_corpus

    if "rttm" not in read_manifest(manifest).carried.names:
        raise EvaluationError(f"{manifest} has no column `rttm`: nothing to compare with")
    config = load_config(pipeline, token=token)
    diarize_corpus(
        manifest,
        str(into / "diarization"),
        config,
        keep_local=str(into / "local"),
        device=device,
        token=token,
        report=report,
    )
    kept = Folder(str((into / "local").resolve()))
    return Objective(kept, config.localize(token), conditions, str(manifest_folder(manifest)))


def optimize(
    manifest: str,
    into: str | Path,
    pipeline: str | None = None,
    *,
    num_trials: int = 100,
    workers: int = 1,
    seed: int = 0,
    report: Callable[[str], None] = print,
    **options,
) -> Tuned:
    """Run the networks over a labelled manifest, search, and write the configuration found.

    Parameters
    ----------
    manifest, pipeline, options
        See `prepare_objective`.
    into : str or Path
        Folder of `prepare_objective`, of the search (`study.log`), and at the end of
        `config.yaml`, which `Pipeline.from_pretrained` takes. A search that was stopped goes on.
    workers : int
        Trials at a time, each an actor on Ray; 1 searches in this process.

    Raises
    ------
    EvaluationError, ConfigError, ManifestError, JobFailed
    """
    into = Path(into)
    _optuna()  # complain before the networks run
    objective = prepare_objective(manifest, into, pipeline, report=report, **options)
    searching = {"num_trials": num_trials, "seed": seed, "report": report}
    if workers == 1:
        tuned = tune(objective, into / "study.log", **searching)
    else:
        from raydiar.evaluation.on_ray import searchers

        with searchers(objective, workers) as run:
            tuned = tune(objective, into / "study.log", run=run, at_once=workers, **searching)
    found = objective.pipeline.config.with_parameters(nested(tuned.parameters))
    (into / "config.yaml").write_text(write_config(found), encoding="utf-8")
    (into / "tuning.json").write_text(json.dumps(asdict(tuned), indent=2), encoding="utf-8")
    return tuned


def _summary(trials, own: dict, num_recordings: int) -> Tuned:
    done = [trial for trial in trials if "errors" in trial.user_attrs]
    errors = np.array([trial.user_attrs["errors"] for trial in done])  # (trials, recordings)
    totals = np.array(done[0].user_attrs["totals"])
    before = next(
        (index for index, trial in enumerate(done) if trial.params == own),
        0,
    )
    best = int(errors.sum(1).argmin())
    held = np.empty(num_recordings)
    fold_of = np.random.default_rng(0).permutation(num_recordings) % min(NUM_FOLDS, num_recordings)
    for fold in np.unique(fold_of):
        here = fold_of == fold
        held[here] = errors[errors[:, ~here].sum(1).argmin()][here]
    total = max(totals.sum(), 1e-9)
    return Tuned(
        parameters=dict(done[best].params),
        before=float(errors[before].sum() / total),
        after=float(errors[best].sum() / total),
        expected=float(held.sum() / total),
        held=difference(errors[before], held, totals),
        num_trials=len(done),
        num_recordings=num_recordings,
    )


def _suggest(trial, space: dict[str, tuple]) -> dict[str, Any]:
    values = {}
    for name, (kind, least, greatest) in space.items():
        if kind == "log-integer":
            values[name] = trial.suggest_int(name, least, greatest, log=True)
        else:
            values[name] = trial.suggest_float(name, least, greatest, log=kind == "log")
    return values


def _own(config: PipelineConfig, space: dict[str, tuple]) -> dict[str, Any]:
    """The pipeline's present parameters, brought inside what is searched."""
    own = {f"clustering.{name}": value for name, value in asdict(config.clustering).items()}
    if config.counting is not None:
        own |= {f"counting.{name}": value for name, value in asdict(config.counting).items()}
    own["segmentation.min_duration_off"] = config.min_duration_off
    return {
        name: type(least)(min(max(own[name], least), greatest))
        for name, (_, least, greatest) in space.items()
    }


def _check_same(study, objective: Objective, names: list[str], storage: Path) -> None:
    identity = json.dumps(
        [names, objective.pipeline.fingerprint, asdict(objective.conditions)], sort_keys=True
    )
    digest = hashlib.sha256(identity.encode()).hexdigest()
    if study.user_attrs.get("identity", digest) != digest:
        raise ConfigError(
            f"{storage} holds the search of another pipeline, or of other recordings: choose "
            "another folder"
        )
    study.set_user_attr("identity", digest)


def _optuna():
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search needs optuna: pip install 'raydiar[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
