"""Speaker diarization in one process: decode, local inference, resolve."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydiar.clustering import PLDA, resolve
from raydiar.clustering.parameters import speaker_bounds
from raydiar.diarization import Diarization
from raydiar.errors import RaydiarError
from raydiar.inference.devices import torch_device
from raydiar.inference.forks import check_not_forked, claim_process
from raydiar.inference.local import LocalInference
from raydiar.local_speakers import LocalSpeakers
from raydiar.models import Model
from raydiar.pipelines.config import LocalPipeline
from raydiar.pipelines.config_file import load_config, read_parameters
from raydiar.pipelines.files import AudioFile, with_distinct_names
from raydiar.pipelines.remote import RemoteDiarization, remote_model
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
    )


class SpeakerDiarization:
    """Who spoke when, in one or many recordings.

    Parameters
    ----------
    pipeline : LocalPipeline
    device : str or torch.device, optional
        Defaults to the configuration's, then to the CPU.
    """

    def __init__(self, pipeline: LocalPipeline, device: str | torch.device | None = None):
        claim_process()
        self._pipeline = pipeline
        self._plda = PLDA.load(pipeline.plda) if pipeline.plda else None
        self.to(device or pipeline.config.device or "cpu")

    def to(self, device: str | torch.device) -> SpeakerDiarization:
        """Run on another device, "cpu", "cuda" or "cuda:1", from the next call on.

        Raises
        ------
        ConfigError
            If this machine has no such device.
        """
        self.device = torch_device(device)
        self._inference: LocalInference | None = None
        return self

    def cuda(self, index: int | None = None) -> SpeakerDiarization:
        return self.to("cuda" if index is None else f"cuda:{index}")

    def instantiate(self, params: Mapping[str, Any]) -> SpeakerDiarization:
        """Set hyper-parameters, e.g. `{"clustering": {"threshold": 0.7}}`.

        Raises
        ------
        ConfigError
            On a name that this pipeline does not have.
        """
        config = self._pipeline.config.with_parameters(params)
        self._pipeline = self._pipeline.with_config(config)
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that decides the numbers, beside the weights."""
        return self._pipeline.parameters

    def describe(self) -> dict[str, str]:
        """The `pipeline` column of a diarization dataset made with it."""
        return self._pipeline.describe()

    def __call__(
        self,
        file,
        *,
        num_speakers: int | None = None,
        min_speakers: int | None = None,
        max_speakers: int | None = None,
        hook: Callable | None = None,
        on_error: Callable[[Any, RaydiarError], None] | None = None,
    ) -> Diarization | Iterator[tuple[Any, Diarization]]:
        """Diarize one recording, or many in shared batches.

        Parameters
        ----------
        file : str, Path, binary file, mapping, or list of these
            See `raydiar.pipelines.files.AudioFile.of`.
        num_speakers, min_speakers, max_speakers : int, optional
            What is known about the number of speakers.
        hook : callable, optional
            See `raydiar.pipelines.hooks`.
        on_error : callable, optional
            For a list: called with (file, error) for a recording that cannot be read, which is
            then left out; without it the error is raised.

        Returns
        -------
        output : Diarization, or iterator of (file, Diarization)
            For a list, pairs in its order, each as soon as it is ready. Turns of an excerpt are on
            the timeline of its file.

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
        speaker_bounds(**bounds)  # complain before an hour of inference, not after
        check_not_forked()
        if isinstance(file, list | tuple):
            files = with_distinct_names([AudioFile.of(one) for one in file])
            return self._diarize(files, bounds, hook, on_error)
        [(_, output)] = self._diarize([AudioFile.of(file)], bounds, hook, None)
        return output

    def _diarize(
        self,
        files: Iterable[AudioFile],
        bounds: dict,
        hook: Callable | None,
        on_error: Callable | None,
    ) -> Iterator[tuple[Any, Diarization]]:
        if self._inference is None:
            self._inference = local_inference(self._pipeline, self.device)
        reported = Reporter(hook)
        waiting: deque[tuple[AudioFile, list[str]]] = deque()

        def decoded() -> Iterator[np.ndarray]:
            for file in files:
                warnings: list[str] = []
                try:
                    samples = file.samples(warnings)
                except RaydiarError as error:
                    if on_error is None:
                        raise
                    on_error(file.original, error)
                    continue
                reported.start(file, self._inference.grid.num_windows(len(samples)))
                waiting.append((file, warnings))
                yield samples

        for local in self._inference(
            decoded(), progress=reported.segmented, embedded=reported.embedded
        ):
            file, warnings = waiting.popleft()
            reported.heard(file, local)
            output = self.resolve(local, uri=file.uri, **bounds)
            reported.resolved(file, local, output)
            output = replace(output, warnings=(*warnings, *output.warnings)).shifted(file.start)
            yield file.original, output

    def resolve(self, local: LocalSpeakers, uri: str = "recording", **bounds) -> Diarization:
        """Cluster local speakers into a diarization; see `raydiar.clustering.resolve`."""
        config = self._pipeline.config
        return resolve(
            local,
            config.clustering,
            plda=self._plda,
            min_duration_off=config.min_duration_off,
            uri=uri,
            **bounds,
        )


class Pipeline:
    """Entry point with the name users know from pyannote.audio."""

    @staticmethod
    def from_pretrained(
        checkpoint: str | Path | Mapping | None = None,
        *,
        revision: str | None = None,
        hparams_file: str | Path | None = None,
        subfolder: str | None = None,
        token: str | None = None,
        use_auth_token: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> SpeakerDiarization:
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

        Raises
        ------
        ConfigError, WeightsNotFound, CheckpointError
        """
        token = token or use_auth_token
        if (model := remote_model(checkpoint)) is not None:
            return RemoteDiarization(model, token)
        config = load_config(
            checkpoint, revision=revision, subfolder=subfolder, token=token, cache_dir=cache_dir
        )
        if hparams_file is not None:
            config = config.with_parameters(read_parameters(hparams_file))
        return SpeakerDiarization(config.localize(token=token, cache_dir=cache_dir))
