"""Speaker diarization in one process: decode, local inference, resolve."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydiar.clustering import PLDA, resolve
from raydiar.clustering.parameters import (
    LINKAGES,
    AgglomerativeParameters,
    KMeansParameters,
    VBxParameters,
    speaker_bounds,
)
from raydiar.diarization import Diarization
from raydiar.errors import ConfigError, RaydiarError
from raydiar.inference.local import LocalInference
from raydiar.inference.segmenter import DEFAULT_THRESHOLD
from raydiar.keywords import known_keywords
from raydiar.local_speakers import LocalSpeakers
from raydiar.models import Model
from raydiar.models.checkpoint import read_checkpoint
from raydiar.pipelines.config import DEFAULT, LocalPipeline, PipelineConfig
from raydiar.pipelines.config_file import CLUSTERINGS
from raydiar.pipelines.files import AudioFile
from raydiar.pipelines.given import weights_of
from raydiar.pipelines.pipeline import Choice, Nested, Pipeline, Range
from raydiar.pipelines.references import named_as
from raydiar.pipelines.reporting import Reporter


def local_inference(
    pipeline: LocalPipeline,
    device: str | torch.device = "cpu",
    *,
    segmentation_batch_size: int | None = None,
    embedding_batch_size: int | None = None,
) -> LocalInference:
    """Load the networks of a pipeline onto a device; batch sizes default to the pipeline's."""
    config = pipeline.config
    return LocalInference(
        Model.from_pretrained(pipeline.segmentation),
        Model.from_pretrained(pipeline.embedding),
        device=device,
        dtype=getattr(torch, config.dtype),
        segmentation_step=config.segmentation_step,
        segmentation_batch_size=segmentation_batch_size or config.segmentation_batch_size,
        embedding_batch_size=embedding_batch_size or config.embedding_batch_size,
        exclude_overlap=config.embedding_exclude_overlap,
        segmentation_threshold=config.segmentation_threshold,
    )


class SpeakerDiarization(Pipeline):
    """Who spoke when, in one or many recordings.

    Parameters
    ----------
    pipeline : LocalPipeline, optional
        What it is made of; else `segmentation` and the others say so.
    device : str or torch.device, optional
        Defaults to the configuration's, then to the CPU.
    legacy : bool
        Give an Annotation of pyannote.core, as pyannote.audio 3 did, instead of a Diarization.
    segmentation, embedding : Model, str, Path or dict, optional
        Networks, or where they are; by default the embedded ones.
    segmentation_step : float
        Step between windows, as a fraction of their duration.
    embedding_exclude_overlap : bool, optional
        See `PipelineConfig`; by default False, but True where neither network is named.
    plda : str, Path or dict, optional
        Directory of `plda.npz` and `xvec_transform.npz`.
    clustering : str, optional
        "AgglomerativeClustering", "VBxClustering" (the default where there is a `plda`), or
        "KMeansClustering".
    segmentation_batch_size, embedding_batch_size : int
        Windows; a CPU takes at most 16 and 4 at a time, which is its fastest.
    der_variant : dict, optional
        Arguments of the metric that `get_metric` makes.
    token, use_auth_token, cache_dir
        As in `Model.from_pretrained`.

    Notes
    -----
    Settings are attributes that can be changed between calls: `segmentation_step`,
    `segmentation_batch_size`, `embedding_batch_size`, `embedding_exclude_overlap`, `legacy`.
    """

    @known_keywords
    def __init__(
        self,
        pipeline: LocalPipeline | None = None,
        device: str | torch.device | None = None,
        *,
        legacy: bool = False,
        segmentation: Model | str | Path | dict | None = None,
        segmentation_step: float = 0.1,
        embedding: Model | str | Path | dict | None = None,
        embedding_exclude_overlap: bool | None = None,
        plda: str | Path | dict | None = None,
        clustering: str | None = None,
        embedding_batch_size: int = 32,
        segmentation_batch_size: int = 32,
        der_variant: dict | None = None,
        token: str | None = None,
        use_auth_token: str | None = None,
        cache_dir: str | Path | None = None,
    ):
        if pipeline is None:
            token = token or use_auth_token
            if embedding_exclude_overlap is None:
                embedding_exclude_overlap = segmentation is None and embedding is None
            config = PipelineConfig(
                segmentation=weights_of(segmentation, cache_dir) or DEFAULT.segmentation,
                embedding=weights_of(embedding, cache_dir) or DEFAULT.embedding,
                plda=weights_of(plda, cache_dir),
                clustering=_clustering(clustering, plda is not None),
                segmentation_step=segmentation_step,
                embedding_exclude_overlap=embedding_exclude_overlap,
                segmentation_batch_size=segmentation_batch_size,
                embedding_batch_size=embedding_batch_size,
            )
            pipeline = config.localize(token=token, cache_dir=cache_dir)
        elif not isinstance(pipeline, LocalPipeline):
            raise ConfigError(
                f"SpeakerDiarization takes its networks by name, segmentation=… and embedding=…, "
                f"not a {type(pipeline).__name__}"
            )
        self._pipeline = pipeline
        self._plda = PLDA.load(pipeline.plda) if pipeline.plda else None
        self.legacy = legacy
        self.der_variant = der_variant or {"collar": 0.0, "skip_overlap": False}
        super().__init__(device or pipeline.config.device or "cpu")

    def _moved(self) -> None:
        self._inference: LocalInference | None = None

    # -- settings and hyper-parameters -----------------------------------------------------

    def _change(self, **settings) -> None:
        """Other settings, from the next call on."""
        self._pipeline = self._pipeline.with_config(replace(self._pipeline.config, **settings))
        self._inference = None

    @property
    def segmentation_step(self) -> float:
        """Step between windows, as a fraction of their duration."""
        return self._pipeline.config.segmentation_step

    @segmentation_step.setter
    def segmentation_step(self, step: float) -> None:
        if not 0 < step <= 1:
            raise ConfigError(f"segmentation_step must be in (0, 1], not {step}")
        self._change(segmentation_step=step)

    @property
    def segmentation_batch_size(self) -> int:
        """Windows that the segmentation network is given at a time; on a CPU at most 16."""
        return self._pipeline.config.segmentation_batch_size

    @segmentation_batch_size.setter
    def segmentation_batch_size(self, batch_size: int) -> None:
        self._change(segmentation_batch_size=batch_size)

    @property
    def embedding_batch_size(self) -> int:
        """Windows that the embedding network is given at a time; on a CPU at most 4."""
        return self._pipeline.config.embedding_batch_size

    @embedding_batch_size.setter
    def embedding_batch_size(self, batch_size: int) -> None:
        self._change(embedding_batch_size=batch_size)

    @property
    def embedding_exclude_overlap(self) -> bool:
        """Whether speakers are embedded from where they speak alone."""
        return self._pipeline.config.embedding_exclude_overlap

    @embedding_exclude_overlap.setter
    def embedding_exclude_overlap(self, exclude: bool) -> None:
        self._change(embedding_exclude_overlap=bool(exclude))

    @cached_property
    def _powerset(self) -> bool:
        """Whether the segmentation network decides for itself, as those without a word do."""
        specifications = read_checkpoint(self._pipeline.segmentation).specifications
        return specifications is None or specifications.powerset

    def _values(self) -> Nested:
        config = self._pipeline.config
        segmentation: Nested = {"min_duration_off": config.min_duration_off}
        if config.segmentation_threshold is not None:
            segmentation["threshold"] = config.segmentation_threshold
        elif not self._powerset:
            segmentation["threshold"] = DEFAULT_THRESHOLD
        clustering = asdict(config.clustering)
        counting = asdict(config.counting) if config.counting else {}
        groups = {"segmentation": segmentation, "clustering": clustering, "counting": counting}
        return {name: values for name, values in groups.items() if values}

    def _spaces(self) -> Nested:
        clustering: Nested = {}
        if isinstance(self._pipeline.config.clustering, AgglomerativeParameters):
            clustering = {
                "method": Choice(LINKAGES),
                "min_cluster_size": Range(1, 20),
                "threshold": Range(0.0, 2.0),
            }
        elif isinstance(self._pipeline.config.clustering, VBxParameters):
            clustering = {
                "threshold": Range(0.5, 0.8),
                "Fa": Range(0.01, 0.5),
                "Fb": Range(0.01, 15.0),
            }
        segmentation = {"min_duration_off": Range(0.0, 1.0), "threshold": Range(0.1, 0.9)}
        counting = {"speech": Range(0.05, 0.95), "overlap": Range(0.05, 0.95)}
        groups = {"segmentation": segmentation, "clustering": clustering, "counting": counting}
        known = self._values()
        return {
            group: {name: space for name, space in spaces.items() if name in known[group]}
            for group, spaces in groups.items()
            if group in known
        }

    def _set(self, params: Nested) -> None:
        config = self._pipeline.config.with_parameters(params)
        again = config.segmentation_threshold != self._pipeline.config.segmentation_threshold
        self._pipeline = self._pipeline.with_config(config)
        if again:
            self._inference = None

    def default_parameters(self) -> Nested:
        """Those published with the clustering: of speaker-diarization-3.1, or of community-1."""
        clustering = asdict(type(self._pipeline.config.clustering)())
        segmentation = {"min_duration_off": 0.0}
        if not self._powerset:
            segmentation["threshold"] = DEFAULT_THRESHOLD
        groups = {"segmentation": segmentation, "clustering": clustering}
        return {name: values for name, values in groups.items() if values}

    def describe(self) -> dict[str, str]:
        """The `pipeline` column of a diarization dataset made with it."""
        return self._pipeline.describe()

    def classes(self) -> Iterator[str]:
        """Labels of speakers, without end."""
        number = 0
        while True:
            yield f"SPEAKER_{number:02d}"
            number += 1

    def get_metric(self):
        """A new metric of pyannote.metrics, with the arguments of `der_variant`."""
        from pyannote.metrics.diarization import GreedyDiarizationErrorRate

        return GreedyDiarizationErrorRate(**self.der_variant)

    # -- recordings ------------------------------------------------------------------------

    def __call__(
        self,
        file,
        *,
        num_speakers: int | None = None,
        min_speakers: int | None = None,
        max_speakers: int | None = None,
        preload: bool = False,
        hook: Callable | None = None,
        on_error: Callable[[Any, RaydiarError], None] | None = None,
        **unknown,
    ):
        """Diarize one recording, or many in shared batches.

        Parameters
        ----------
        file : str, Path, binary file, mapping, or list of these
            See `raydiar.pipelines.files.AudioFile.of`. With "annotation", a reference of
            pyannote.core, in a mapping, speakers take the names of those whom they match.
        num_speakers, min_speakers, max_speakers : int, optional
            What is known about the number of speakers.
        preload, hook, on_error
            See `Pipeline.__call__`.

        Returns
        -------
        output : Diarization, or iterator of (file, Diarization)
            For a list, pairs in its order, each as soon as it is ready. Turns of an excerpt are on
            the timeline of its file. Annotations where `legacy` is set.

        Raises
        ------
        AudioDecodeError, AudioNotFound, InvalidSamples, RecordingTooLong
        ConfigError
            Contradictory numbers of speakers, or a list that names one recording twice.
        ForkedProcess
            In a process that was forked after networks were loaded.
        """
        bounds = {
            "num_speakers": num_speakers,
            "min_speakers": min_speakers,
            "max_speakers": max_speakers,
        }
        self._check_options(unknown)
        speaker_bounds(**bounds)  # complain before an hour of inference, not after
        return super().__call__(file, preload=preload, hook=hook, on_error=on_error, **bounds)

    def apply(
        self,
        file: AudioFile,
        hook: Callable | None = None,
        num_speakers: int | None = None,
        min_speakers: int | None = None,
        max_speakers: int | None = None,
    ) -> Diarization:
        """Diarize one recording."""
        bounds = {
            "num_speakers": num_speakers,
            "min_speakers": min_speakers,
            "max_speakers": max_speakers,
        }
        [(_, output)] = self._many([file], hook, None, bounds)
        return output

    def _many(
        self,
        files: Iterable[AudioFile],
        hook: Callable | None,
        on_error: Callable | None,
        options: dict,
    ) -> Iterator[tuple[Any, Diarization]]:
        if self._inference is None:
            self._inference = local_inference(self._pipeline, self.device)
        reported = Reporter(hook)
        waiting: deque[tuple[AudioFile, list[str], dict]] = deque()

        def decoded() -> Iterator[np.ndarray]:
            for file in files:
                warnings: list[str] = []
                try:
                    bounds = self._bounds(file, options)
                    samples = file.samples(warnings)
                except RaydiarError as error:
                    if on_error is None:
                        raise
                    on_error(file.original, error)
                    continue
                reported.start(file, self._inference.grid.num_windows(len(samples)))
                waiting.append((file, warnings, bounds))
                yield samples

        for local in self._inference(
            decoded(), progress=reported.segmented, embedded=reported.embedded
        ):
            file, warnings, bounds = waiting.popleft()
            reported.heard(file, local, self._pipeline.config.counting)
            output = self.resolve(local, uri=file.uri, **bounds)
            reported.resolved(file, local, output)
            output = replace(
                output, warnings=(*warnings, *output.warnings), dimension=local.dimension
            ).shifted(file.start)
            if reference := file.mapping.get("annotation"):
                output = named_as(output, reference)
            plain = self.legacy or self.training
            yield file.original, output.speaker_diarization if plain else output

    def _bounds(self, file: AudioFile, options: dict) -> dict[str, int | None]:
        """Numbers of speakers of one recording."""
        bounds = self._options_of(file, options)
        speaker_bounds(**bounds)
        reference = file.mapping.get("annotation")
        fixed = isinstance(self._pipeline.config.clustering, KMeansParameters)
        if fixed and reference and bounds.get("num_speakers") is None:
            bounds = {**bounds, "num_speakers": len(reference.labels())}
        return bounds

    def resolve(self, local: LocalSpeakers, uri: str = "recording", **bounds) -> Diarization:
        """Cluster local speakers into a diarization; see `raydiar.clustering.resolve`."""
        config = self._pipeline.config
        return resolve(
            local,
            config.clustering,
            plda=self._plda,
            min_duration_off=config.min_duration_off,
            counting=config.counting,
            uri=uri,
            **bounds,
        )


def _clustering(name: str | None, with_plda: bool):
    """Parameters of a clustering by its name, as published."""
    name = name or ("VBxClustering" if with_plda else "AgglomerativeClustering")
    if name not in CLUSTERINGS:
        raise ConfigError(f"clustering must be one of {sorted(CLUSTERINGS)}, not {name!r}")
    return CLUSTERINGS[name]()
