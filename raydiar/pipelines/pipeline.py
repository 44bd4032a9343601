"""Pipeline: what every pipeline has in common, and the door to pretrained ones.

Hyper-parameters are a mapping of names to numbers, in groups where there are groups. They can be
read, set, and frozen; a name that a pipeline does not have is an error that tells those it has.
"""

from __future__ import annotations

import copy
import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from raydiar import telemetry
from raydiar.errors import ConfigError, RaydiarError
from raydiar.inference.devices import torch_device
from raydiar.inference.forks import check_not_forked, claim_process
from raydiar.keywords import check_hook, known_keywords
from raydiar.pipelines.files import AudioFile, with_distinct_names

Nested = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """Numbers that a hyper-parameter may take; whole ones if `low` is one."""

    low: float
    high: float

    def suggested(self, name: str, trial) -> float:
        """The value that a trial of optuna is to have."""
        suggest = trial.suggest_int if isinstance(self.low, int) else trial.suggest_float
        return suggest(name, self.low, self.high)


@dataclass(frozen=True)
class Choice:
    """Values that a hyper-parameter may take."""

    values: tuple

    def suggested(self, name: str, trial):
        """The value that a trial of optuna is to have."""
        return trial.suggest_categorical(name, list(self.values))


class Pipeline:
    """Base class of pipelines.

    Subclasses implement `apply` for one recording, `_values` and `_set` for hyper-parameters, and
    `_spaces` for what these may be.

    Attributes
    ----------
    device : torch.device
    preprocessors : dict
        Functions of a recording's mapping by the key whose value they make: `{"annotation":
        lambda file: …}`.
    training : bool
        Whether an optimizer of pyannote.pipeline is at work, which sets it: results are then
        Annotations, which its metrics take.
    """

    def __init__(self, device: str | torch.device = "cpu"):
        claim_process()
        self.training = False
        self.preprocessors: dict[str, Callable[[Mapping], Any]] = {}
        self._frozen: Nested = {}
        self.to(device)

    @classmethod
    @known_keywords
    def from_pretrained(
        cls,
        checkpoint: str | Path | Mapping | None = None,
        revision: str | None = None,
        hparams_file: str | Path | None = None,
        subfolder: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        use_auth_token: str | None = None,
        base_url: str | None = None,
    ) -> Pipeline:
        """Load a pipeline and its weights.

        Parameters
        ----------
        checkpoint : str, Path or mapping, optional
            Nothing for the embedded default, which needs neither account nor token; else what
            `raydiar.pipelines.config_file.load_config` takes.
        hparams_file : str or Path, optional
            YAML file of hyper-parameters, which win over those of the configuration.
        revision, subfolder, token, cache_dir
            As in `raydiar.hub.fetch`; `use_auth_token` is the former name of `token`.
        base_url : str, optional
            Of the server that runs a premium model ("pyannote/speaker-diarization-precision-2"
            and newer ones), where that is not pyannoteAI's; `token` is then its API key.

        Raises
        ------
        ConfigError, WeightsNotFound, CheckpointError
        """
        from raydiar.pipelines.loading import load_pipeline

        pipeline = load_pipeline(
            checkpoint,
            revision=revision,
            hparams_file=hparams_file,
            subfolder=subfolder,
            token=token or use_auth_token,
            cache_dir=cache_dir,
            base_url=base_url,
        )
        if not isinstance(pipeline, cls):
            raise ConfigError(f"{checkpoint} is a {type(pipeline).__name__}, not a {cls.__name__}")
        telemetry.pipeline_loaded(pipeline)
        return pipeline

    # -- where it runs ---------------------------------------------------------------------

    def to(self, device: str | torch.device) -> Pipeline:
        """Run on another device, "cpu", "cuda" or "cuda:1", from the next call on.

        Raises
        ------
        ConfigError
            If this machine has no such device; the pipeline then stays where it is.
        """
        self.device = torch_device(device)
        self._moved()
        return self

    def cuda(self, index: int | None = None) -> Pipeline:
        """Run on a GPU."""
        return self.to("cuda" if index is None else f"cuda:{index}")

    def _moved(self) -> None:
        """Called when `device` has changed."""

    # -- hyper-parameters ------------------------------------------------------------------

    def _values(self) -> Nested:
        """Hyper-parameters as they are."""
        return {}

    def _spaces(self) -> Nested:
        """What each may be: `Range` or `Choice`, in the form of `_values`."""
        return {}

    def _set(self, params: Nested) -> None:
        """Take hyper-parameters whose names are known; their values are still to be checked."""

    def parameters(
        self, trial=None, frozen: bool | None = None, instantiated: bool = False
    ) -> Nested:
        """Hyper-parameters in their groups: what each may be, or what each is.

        Parameters
        ----------
        trial : optuna.trial.BaseTrial, optional
            Give the values that it suggests.
        frozen : bool, optional
            Give nothing but those that are frozen, or, where False, all others.
        instantiated : bool
            Give values instead of a `Range` or `Choice`; those that are frozen have values in any
            case.
        """
        if trial is not None and (frozen or instantiated):
            raise ConfigError("parameters are of a trial, or frozen, or instantiated: choose one")
        if frozen:
            return copy.deepcopy(self._frozen)
        values = copy.deepcopy(self._values())
        chosen = values if instantiated else _merged(self._spaces(), self._frozen)
        if trial is not None:
            chosen = _suggested(chosen, trial)
        return _without(chosen, self._frozen) if frozen is False else chosen

    def default_parameters(self) -> Nested:
        """Hyper-parameters to begin with, where nothing else is said."""
        return {}

    def instantiate(self, params: Mapping[str, Any]) -> Pipeline:
        """Set hyper-parameters, e.g. `{"clustering": {"threshold": 0.7}}`.

        Frozen ones keep their values, and a warning says so.

        Raises
        ------
        ConfigError
            On a name that this pipeline does not have, or a value that makes no sense.
        """
        params = _plain(params)
        self._check_names(params, self._values())
        for name, value, kept in _overlap(params, self._frozen):
            if value != kept:
                warnings.warn(f"{name} is frozen to {kept!r}: {value!r} is left out", stacklevel=2)
        self._set(_merged(params, self._frozen))
        return self

    def freeze(self, params: Mapping[str, Any]) -> Pipeline:
        """Set hyper-parameters for good.

        Raises
        ------
        ConfigError
            As `instantiate`.
        """
        params = _plain(params)
        self._check_names(params, self._values())
        self._set(params)
        self._frozen = _merged(self._frozen, params)
        return self

    def load_params(self, path: str | Path) -> Pipeline:
        """Set hyper-parameters from a YAML file, from its `params` section if it has one."""
        from raydiar.pipelines.config_file import read_parameters

        return self.instantiate(read_parameters(path))

    def dump_params(
        self, path: str | Path, params: Nested | None = None, loss: float | None = None
    ) -> str:
        """Write hyper-parameters to a YAML file that `load_params` reads; gives its text.

        Parameters
        ----------
        path : str or Path
        params : dict, optional
            By default those that the pipeline has.
        loss : float, optional
            Written beside them.
        """
        content = {"params": self.parameters(instantiated=True) if params is None else params}
        if loss is not None:
            content["loss"] = float(loss)
        text = yaml.safe_dump(content, sort_keys=False)
        Path(path).write_text(text, encoding="utf-8")
        return text

    def _check_names(self, params: Mapping, known: Mapping, where: str = "") -> None:
        for name, value in params.items():
            label = f"{where}.{name}" if where else str(name)
            if name not in known:
                have = ", ".join(map(str, known)) or "nothing"
                raise ConfigError(
                    f"{type(self).__name__} has no parameter {label}: "
                    f"{f'{where} has' if where else 'there are'} {have}"
                )
            if isinstance(known[name], Mapping) != isinstance(value, Mapping):
                wanted = "a group of them" if isinstance(known[name], Mapping) else "a value"
                raise ConfigError(f"{label} must be {wanted}, not {value!r}")
            if isinstance(value, Mapping):
                self._check_names(value, known[name], label)

    # -- optimizing: what `pyannote.pipeline.Optimizer` asks for -----------------------------

    def get_metric(self):
        """A new metric of pyannote.metrics by which results are judged."""
        raise NotImplementedError(f"{type(self).__name__} has no metric")

    def get_direction(self) -> str:
        """Whether its metric is to be small ("minimize") or large ("maximize")."""
        return "minimize"

    def _flatten(self, params: Nested) -> Nested:
        """Hyper-parameters without groups, whose names are put in front: `group>name`."""
        flat = {}
        for name, value in params.items():
            inner = self._flatten(value) if isinstance(value, Mapping) else None
            flat |= {name: value} if inner is None else {f"{name}>{k}": v for k, v in inner.items()}
        return flat

    # -- recordings ------------------------------------------------------------------------

    def classes(self) -> list[str] | Iterator[str]:
        """Labels of the result, where they are known beforehand."""
        raise NotImplementedError(f"{type(self).__name__} does not know its labels beforehand")

    def apply(self, file: AudioFile, hook: Callable | None = None):
        """What the pipeline says of one recording."""
        raise NotImplementedError

    def __call__(
        self,
        file,
        *,
        preload: bool = False,
        hook: Callable | None = None,
        on_error: Callable[[Any, RaydiarError], None] | None = None,
        **options,
    ):
        """Process one recording, or many.

        Parameters
        ----------
        file : str, Path, binary file, mapping, or list of these
            See `raydiar.pipelines.files.AudioFile.of`. "pipeline_kwargs" of a mapping are options
            of this recording.
        preload : bool
            Read the recording before anything else, so that hooks find its "waveform" and
            "sample_rate". (It is read once in any case.)
        hook : callable, optional
            See `raydiar.pipelines.hooks`.
        on_error : callable, optional
            For a list: called with (file, error) for a recording that cannot be read, which is
            then left out; without it the error is raised.
        **options
            Of `apply`.

        Returns
        -------
        output : what `apply` gives, or an iterator of (file, output)
            For a list, pairs in its order.

        Raises
        ------
        ConfigError
            An option that this pipeline does not have, or a list that names a recording twice.
        AudioDecodeError, AudioNotFound, InvalidSamples, RecordingTooLong
        ForkedProcess
            In a process that was forked after networks were loaded.
        """
        check_not_forked()
        self._check_options(options)
        check_hook(hook)
        if isinstance(file, list | tuple):
            files = with_distinct_names([self._opened(one, preload) for one in file])
            results = self._many(files, hook, on_error, options)
            return self._counted(results) if telemetry.is_enabled() else results
        began = time.monotonic()
        opened = self._opened(file, preload)
        output = self.apply(opened, hook=hook, **self._options_of(opened, options))
        telemetry.recording_processed(self, _seconds(output), time.monotonic() - began)
        return output

    def _counted(self, results: Iterator[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """The same results, each told to telemetry."""
        while True:
            began = time.monotonic()
            result = next(results, None)
            if result is None:
                return
            telemetry.recording_processed(self, _seconds(result[1]), time.monotonic() - began)
            yield result

    def _many(
        self, files: Iterable[AudioFile], hook, on_error, options: dict
    ) -> Iterator[tuple[Any, Any]]:
        for file in files:
            try:
                output = self.apply(file, hook=hook, **self._options_of(file, options))
            except RaydiarError as error:
                if on_error is None:
                    raise
                on_error(file.original, error)
                continue
            yield file.original, output

    def _opened(self, file, preload: bool) -> AudioFile:
        """The recording as the caller gave it, with what preprocessors make of it."""
        original = file
        if self.preprocessors:
            mapping = dict(file) if isinstance(file, Mapping) else {"audio": file}
            mapping.setdefault("uri", AudioFile.of(file).uri)
            for key, function in self.preprocessors.items():
                mapping[key] = function(mapping)
            file = mapping
        opened = AudioFile.of(file)
        if preload:
            opened = opened.preloaded()
        return opened if original is file else replace(opened, original=original)

    def _options_of(self, file: AudioFile, options: dict) -> dict:
        own = file.mapping.get("pipeline_kwargs") or {}
        self._check_options(own)
        return {**options, **own}

    def _check_options(self, options: Mapping) -> None:
        parameters = inspect.signature(self.apply).parameters
        known = [name for name in parameters if name not in ("self", "file", "hook")]
        if unknown := sorted(set(options) - set(known)):
            have = ", ".join([*known, "preload", "hook", "on_error"])
            raise ConfigError(
                f"{type(self).__name__} has no option {', '.join(unknown)}: it takes {have}"
            )


def _seconds(output) -> float | None:
    """How long the recording lasts, where the output says."""
    duration = getattr(output, "duration", None)
    return duration if isinstance(duration, float) else None


def _plain(params) -> Nested:
    if not isinstance(params, Mapping):
        raise ConfigError(f"hyper-parameters are a mapping of names to values, not {params!r}")
    return {k: _plain(v) if isinstance(v, Mapping) else v for k, v in params.items()}


def _suggested(spaces: Nested, trial, where: str = "") -> Nested:
    """What a trial suggests in the place of each `Range` and `Choice`."""
    values = {}
    for name, space in spaces.items():
        label = f"{where}{name}"
        if isinstance(space, Mapping):
            values[name] = _suggested(space, trial, f"{label}>")
        else:
            known = isinstance(space, Range | Choice)
            values[name] = space.suggested(label, trial) if known else space
    return values


def _merged(base: Nested, over: Nested) -> Nested:
    """`base` with the values of `over` in their places."""
    merged = dict(base)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _without(params: Nested, left_out: Nested) -> Nested:
    kept = {}
    for name, value in params.items():
        if name not in left_out:
            kept[name] = value
        elif isinstance(value, dict) and (inner := _without(value, left_out[name])):
            kept[name] = inner
    return kept


def _overlap(params: Nested, other: Nested, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, value and other value of what both have."""
    for name in params.keys() & other.keys():
        if isinstance(params[name], dict):
            yield from _overlap(params[name], other[name], f"{where}{name}.")
        else:
            yield f"{where}{name}", params[name], other[name]
