"""The stages after decoding: local inference, joining, resolve, write. Each takes and gives tables.

A row is a pack until it is written. A stage catches what is a recording's failure, or the
moment's once its attempts are used up, and lets everything else stop the job: exceptions that
leave a stage are never rows. Importing this module brings neither torch nor Ray, for the workers
that only resolve.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydiar.clustering import PLDA, CountingParameters, resolve
from raydiar.clustering.resolve import Clustering
from raydiar.corpus.inputs.plan import stated_seconds
from raydiar.corpus.inputs.shard_record import SHARD
from raydiar.corpus.job.pack import STEPS, Pack
from raydiar.corpus.output import dataset
from raydiar.errors import DeviceFailed, JobFailed
from raydiar.failures import (
    MACHINE,
    describe,
    failure_cause,
    is_device_error,
    is_out_of_memory,
    retrying,
)
from raydiar.local_speakers import LocalSpeakers
from raydiar.storage.folder import Folder
from raydiar.storage.lock import check_lock

RECEIPT = pa.schema(
    [
        ("ok", pa.int64()),
        ("errors", pa.list_(pa.string())),  # type of each error row
        ("shards", pa.list_(SHARD)),  # of each pack that comes from one
        ("audio_seconds", pa.float64()),
        ("stated_seconds", pa.float64()),  # by the manifest, of the rows for which it states them
        # spent on each pack
        *((f"{step}_seconds", pa.list_(pa.float64())) for step in STEPS),
    ]
)


class LocalInferenceStage:
    """Local inference on the recordings of a pack: an actor that holds the networks.

    Parameters
    ----------
    pipeline : LocalPipeline or PipelineConfig
        The latter, naming weights that every node can read, where nodes have disks of their own.
    device : str
    num_threads : int
        Of torch on a CPU: those that Ray counts for this actor.
    coordinator : handle of a `Coordinator` actor
    """

    def __init__(self, pipeline, device: str, num_threads: int, coordinator):
        import ray

        from raydiar.corpus.job.attempts import Attempts

        threading.Thread(target=_end_with, args=(coordinator,), daemon=True).start()
        self._attempts = Attempts(coordinator)
        self._attempts.check_admitted()
        self._failure: Exception | None = None
        # an actor keeps its id when Ray restarts it
        loading = ("loading", ray.get_runtime_context().get_actor_id())
        what = "loading the networks"
        try:
            with self._attempts.at(loading, what):
                loaded = retrying(lambda: self._load(pipeline, device, num_threads))
                self._inference, self._health = loaded
        except Exception as error:
            self._failure = error  # for the first call to raise: Ray buries those of constructors
            try:
                self._replace_if_broken(loading, what, error)
            except JobFailed as refused:
                self._failure = refused

    def __call__(self, table: pa.Table) -> pa.Table:
        begun = time.perf_counter()
        if self._failure is not None:
            raise self._failure
        pack = Pack(table)
        key = ("pack", pack.number)
        what = f"pack {key[1]}"
        errors = pack.errors()
        decoded = [(n, samples) for n, samples in enumerate(pack.samples()) if samples is not None]
        sources = [samples for _, samples in decoded]
        if pack.part is not None:
            sources = [self._slice(samples, pack.part) for samples in sources]
        found: list = [None] * len(errors)
        try:
            with self._attempts.at(key, what):
                results = self._infer(sources)
        except Exception as error:
            self._replace_if_broken(key, what, error)
            raise
        for (number, _), result in zip(decoded, results, strict=True):
            if isinstance(result, Exception):
                errors[number] = describe(result)
            else:
                found[number] = result
        return self._with_found(pack, found, errors, time.perf_counter() - begun).table

    def _load(self, pipeline, device: str, num_threads: int):
        """What infers, and its health check."""
        return _load(pipeline, device, num_threads)

    def _with_found(self, pack: Pack, found: list, errors: list, seconds: float) -> Pack:
        return pack.with_local_speakers(found, errors, seconds)

    def _slice(self, samples: np.ndarray, part: dict):
        """The windows that begin in a part of a recording."""
        from raydiar.inference.batches import Slice

        grid = self._inference.grid
        first, last = (-(-part[edge] // grid.step_samples) for edge in ("start", "stop"))
        if part["num_samples"] is not None:
            last = grid.num_windows(part["num_samples"])
        return Slice(samples, first, last - first, part["start"], part["num_samples"])

    def _infer(self, sources: list) -> list[LocalSpeakers | Exception]:
        """All recordings of a pack together; if that fails each alone, so that one fails alone.

        Raises
        ------
        Exception
            What the machine caused. Whatever fails is the device's failure, until that has
            inferred what is known.
        """
        try:
            return self._run(sources)
        except Exception as error:
            if failure_cause(error) == MACHINE:
                raise
            if (wrong := self._health.failure()) is not None:
                raise DeviceFailed(f"{error} (a known window fails as well: {wrong})") from error
            if len(sources) == 1:
                return [error]
        return [result for source in sources for result in self._infer([source])]

    def _run(self, sources: list) -> list[LocalSpeakers]:
        return list(self._inference(sources))

    def _replace_if_broken(self, key: tuple, what: str, error: Exception) -> None:
        """End this process for a new one, somewhere else perhaps, if its device or memory failed.

        After a CUDA error every call of a process may fail, and memory may be less short there.

        Raises
        ------
        JobFailed
            If that has happened too often.
        """
        if is_device_error(error) or is_out_of_memory(error):
            self._attempts.device_failed(key, what, error)


def _load(pipeline, device: str, num_threads: int):
    import torch

    from raydiar.inference.health import HealthCheck
    from raydiar.pipelines.config import PipelineConfig
    from raydiar.pipelines.speaker_diarization import local_inference

    if device == "cpu":
        torch.set_num_threads(num_threads)
    if isinstance(pipeline, PipelineConfig):
        pipeline = pipeline.localize()
    inference = local_inference(pipeline, device)
    return inference, HealthCheck(inference)


def _end_with(coordinator) -> None:
    """End the actor of this process when the driver ends the job's coordinator."""
    import ray

    while True:
        try:
            # without retries, of which Ray would tell the user
            ray.get(coordinator.outlive.options(max_task_retries=0).remote())
        except ray.exceptions.ActorDiedError:
            ray.kill(ray.get_runtime_context().current_actor)
            return
        except ray.exceptions.ActorUnavailableError:  # its node was lost: Ray moves it
            time.sleep(1)


def resolved(
    pack: Pack, found: Callable[[], list], row: Callable[..., dict], schema: pa.Schema
) -> pa.Table:
    """A pack as rows of a dataset, and what its receipt needs.

    Parameters
    ----------
    pack : Pack
    found : callable
        Gives what was inferred of each recording.
    row : callable
        Makes a row of (recording, error, warnings, found).
    schema : pyarrow.Schema
        Of the dataset.
    """
    begun = time.perf_counter()
    outcomes = zip(pack.recordings(), pack.errors(), pack.warnings(), found(), strict=True)
    rows = [row(*outcome) for outcome in outcomes]
    stated = pa.Table.from_struct_array(pack.recording_values)
    columns = {
        "rows": pa.array([rows], pa.list_(pa.struct(list(schema)))),
        "shard": pa.array([pack.shard], SHARD),
        "stated_seconds": [float(np.nansum(stated_seconds(stated)))],
    }
    times = pack.times | {"resolve": time.perf_counter() - begun}
    return pa.table(columns | {f"{step}_seconds": [times[step]] for step in STEPS})


@dataclass(frozen=True)
class Resolve:
    """Cluster the local speakers of each recording of a pack into rows of the dataset.

    Parameters
    ----------
    clustering : Clustering
    plda : PLDA or None
    min_duration_off : float, s
    pipeline : dict
        The `pipeline` column.
    schema : pyarrow.Schema
        Of the dataset.
    counting : CountingParameters or None
    """

    clustering: Clustering
    plda: PLDA | None = field(repr=False)
    min_duration_off: float
    pipeline: dict
    schema: pa.Schema = field(repr=False)
    counting: CountingParameters | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        pack = Pack(table)
        return resolved(pack, pack.local_speakers, self._row, self.schema)

    def _row(
        self,
        recording: dict,
        error: dict | None,
        warnings: list[str],
        local: LocalSpeakers | None,
    ) -> dict:
        if error is not None:
            return dataset.error_row(recording, error, self.pipeline, warnings)
        try:
            diarization = resolve(
                local,
                self.clustering,
                plda=self.plda,
                num_speakers=recording["num_speakers"],
                min_speakers=recording["min_speakers"],
                max_speakers=recording["max_speakers"],
                min_duration_off=self.min_duration_off,
                counting=self.counting,
                uri=recording["recording_id"],
            )
        except Exception as raised:
            if failure_cause(raised) == MACHINE:
                raise
            return dataset.error_row(recording, describe(raised), self.pipeline, warnings)
        return dataset.ok_row(recording, diarization, self.pipeline, warnings)


@dataclass(frozen=True)
class Write:
    """Publish the rows of some packs as files of the dataset, and give a receipt.

    A map rather than a Ray Data sink, because its receipts reach the driver while the job runs:
    they are the progress, and what the limit on failures counts.
    """

    output: Folder
    run: str
    schema: pa.Schema = field(repr=False)

    def __call__(self, packs: pa.Table) -> pa.Table:
        rows = packs.column("rows").combine_chunks().flatten()
        table = pa.Table.from_batches([pa.RecordBatch.from_struct_array(rows)]).cast(self.schema)
        retrying(lambda: check_lock(self.output, self.run))
        by_status = {
            status: table.filter(pc.equal(table.column("status"), status))
            for status in ("ok", "error")
        }
        for status, published in by_status.items():
            if len(published):
                retrying(lambda s=status, p=published: self._publish(s, p))
        kinds = pc.struct_field(by_status["error"].column("error"), "type").to_pylist()
        receipt = {
            "ok": len(by_status["ok"]),
            "errors": kinds,
            "shards": packs.column("shard").drop_null().to_pylist(),
            "audio_seconds": pc.sum(table.column("duration")).as_py() or 0.0,
            "stated_seconds": pc.sum(packs.column("stated_seconds")).as_py() or 0.0,
        }
        for name in (f"{step}_seconds" for step in STEPS):
            receipt[name] = packs.column(name).to_pylist()
        return pa.Table.from_pylist([receipt], RECEIPT)

    def _publish(self, status: str, rows: pa.Table) -> None:
        dataset.publish_rows(self.output, self.run, status, rows)
