"""The two stages in which a job that detects differs from one that diarizes.

Segmentation alone, and regions or times out of its scores instead of clusters; the graph around
them is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from raydiar.corpus.job.pack import Pack
from raydiar.corpus.job.stages import LocalInferenceStage, resolved
from raydiar.corpus.output import dataset, detections
from raydiar.failures import MACHINE, describe, failure_cause
from raydiar.window_scores import WindowScores


class SegmentationStage(LocalInferenceStage):
    """Scores of the windows of a pack: an actor that holds one network.

    Parameters
    ----------
    pipeline : LocalDetector or Detector
        The latter, naming weights that every node can read, where nodes have disks of their own.
    device, num_threads, coordinator
        See `LocalInferenceStage`.
    """

    def _load(self, pipeline, device: str, num_threads: int):
        import torch

        from raydiar.inference.health import ScoresCheck
        from raydiar.pipelines.detector import Detector

        if device == "cpu":
            torch.set_num_threads(num_threads)
        if isinstance(pipeline, Detector):
            pipeline = pipeline.localize()
        scorer = pipeline.load(device).scorer
        return scorer, ScoresCheck(scorer)

    def _run(self, sources: list) -> list[WindowScores]:
        return list(self._inference.windows(sources))

    def _with_found(self, pack: Pack, found: list, errors: list, seconds: float) -> Pack:
        return pack.with_scores(found, errors, seconds)


@dataclass(frozen=True)
class Detect:
    """Make the scores of each recording of a pack into rows of a dataset of detections.

    Parameters
    ----------
    task : str
    parameters : dict
        Hyper-parameters of the task's pipeline.
    pipeline : dict
        The `pipeline` column.
    schema : pyarrow.Schema
        Of the dataset.
    """

    task: str
    parameters: Mapping[str, Any]
    pipeline: dict
    schema: pa.Schema = field(repr=False)

    def __call__(self, table: pa.Table) -> pa.Table:
        pack = Pack(table)
        return resolved(pack, pack.scores, self._row, self.schema)

    def _row(
        self,
        recording: dict,
        error: dict | None,
        warnings: list[str],
        scores: WindowScores | None,
    ) -> dict:
        if error is not None:
            return dataset.error_row(recording, error, self.pipeline, warnings)
        try:
            found = self._found(scores)
        except Exception as raised:
            if failure_cause(raised) == MACHINE:
                raise
            return dataset.error_row(recording, describe(raised), self.pipeline, warnings)
        return detections.ok_row(recording, scores.duration, found, self.pipeline, warnings)

    def _found(self, scores: WindowScores) -> np.ndarray:
        from raydiar.inference.aggregation import joined
        from raydiar.inference.binarization import Binarize, Peak

        frames = joined(scores)
        if self.task == "changes":
            return np.array(Peak(**self.parameters).peaks(frames), np.float64)
        regions = Binarize(**self.parameters)(frames).itersegments()
        return np.array([tuple(one) for one in regions], np.float64).reshape(-1, 2)
