"""What a detection is made of, before and after its weights are on this machine.

As `PipelineConfig` and `LocalPipeline` are for diarization: the first can be pickled anywhere, the
second knows its hash and so its fingerprint. Nothing in this module imports torch before weights
are looked into.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raydiar import __version__, hub
from raydiar.errors import ConfigError
from raydiar.pipelines.config import NUMERICS, mirrored
from raydiar.weights import SEGMENTATION_3_0, Weights

PIPELINES = {
    "speech": "VoiceActivityDetection",
    "overlap": "OverlappedSpeechDetection",
    "changes": "SpeakerChangeDetection",
}
"""Pipeline of each task."""


@dataclass(frozen=True)
class Detector:
    """Detection of speech, overlapped speech, or changes of speakers.

    Attributes
    ----------
    task : str
        "speech", "overlap" or "changes".
    segmentation : Weights
        A network, or a pipeline that holds one.
    fast : bool
        Look at each instant twice instead of ten times.
    parameters : dict
        Hyper-parameters that are not to have their published values.
    """

    task: str
    segmentation: Weights = SEGMENTATION_3_0
    fast: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.task not in PIPELINES:
            raise ConfigError(f"{self.task!r} cannot be detected: {', '.join(PIPELINES)} can")

    def localize(
        self, token: str | None = None, cache_dir: str | Path | None = None
    ) -> LocalDetector:
        """Bring the weights to this machine and look into them.

        Raises
        ------
        WeightsNotFound, CheckpointError
        ConfigError
            A network, or a parameter, that does not serve this task.
        """
        from raydiar.models.loading import fetch_network

        path = fetch_network(self.segmentation, token, cache_dir)
        pipeline = _load(self, path)
        scorer = pipeline.scorer
        return LocalDetector(
            detector=self,
            segmentation=path,
            sha256=hub.sha256_of(path),
            values=pipeline.parameters(instantiated=True),
            segmentation_step=scorer.grid.step_samples / scorer.grid.window_samples,
        )


@dataclass(frozen=True)
class LocalDetector:
    """A detector whose weights are a file on this machine.

    Attributes
    ----------
    detector : Detector
    segmentation : Path
    sha256 : str
        Of it.
    values : dict
        All hyper-parameters.
    segmentation_step : float
        Step between windows as a fraction of their duration.
    """

    detector: Detector
    segmentation: Path
    sha256: str
    values: Mapping[str, Any]
    segmentation_step: float

    @property
    def config(self) -> Detector:
        return self.detector

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that decides the numbers, beside the weights."""
        return {**self.values, "segmentation_step": self.segmentation_step}

    @property
    def fingerprint(self) -> str:
        """Equal exactly when two detectors give the same rows: 32 hexadecimal digits."""
        identity = {
            "numerics": NUMERICS,
            "task": self.detector.task,
            "segmentation": self.sha256,
            "parameters": self.parameters,
        }
        text = json.dumps(identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def describe(self) -> dict[str, str]:
        """The `pipeline` column of a dataset of detections."""
        return {
            "fingerprint": self.fingerprint,
            "task": self.detector.task,
            "segmentation": self.sha256,
            "parameters": json.dumps(self.parameters, sort_keys=True),
            "raydiar": __version__,
        }

    def mirror(self, directory: str) -> LocalDetector:
        """Copy the weights under a directory or fsspec URI that other nodes can read.

        Returns
        -------
        mirrored : LocalDetector
            Whose `config` names the copy; `localize` it on another node.
        """
        copy = mirrored(self.segmentation, self.sha256, directory)
        return replace(self, detector=replace(self.detector, segmentation=copy))

    def load(self, device: str):
        """The pipeline, with its network on a device."""
        return _load(self.detector, self.segmentation, device)


def _load(detector: Detector, path: Path, device: str = "cpu"):
    from raydiar import pipelines

    pipeline = getattr(pipelines, PIPELINES[detector.task])
    made = pipeline(path, fast=detector.fast, device=device)
    return made.instantiate(detector.parameters)
