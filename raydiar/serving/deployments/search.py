"""Where else a voice speaks, for requests: an open voiceprint index in a replica."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from ray import serve

from raydiar.errors import VoiceprintIndexError
from raydiar.serving.logs import get_logger
from raydiar.storage.folder import Folder
from raydiar.voiceprints.generation import read_current
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.search import Hit, search, turns_of
from raydiar.voiceprints.sharded import ShardedIndex
from raydiar.voiceprints.verification import default_calibration

logger = get_logger("ray.serve")

_LOOK_SECONDS = 5.0  # between looks at which generation is current


class VoiceSearch:
    """An index that follows its current generation.

    Parameters
    ----------
    uri : str
        Of the index.
    embedding, embedding_mode : str
        Of the voiceprints that are looked for.
    num_shards : int, optional
        Ray actors that share the index among them.

    Raises
    ------
    VoiceprintIndexError
        If there is no index, or it is of another embedding.
    """

    def __init__(
        self, uri: str, embedding: str, embedding_mode: str, num_shards: int | None = None
    ):
        self._uri = uri
        self._num_shards = num_shards
        self._embedding = (embedding, embedding_mode)
        self._calibration = default_calibration(embedding, embedding_mode)
        self._index = self._open()
        self._looked = time.monotonic()

    def __call__(
        self,
        voiceprints: np.ndarray,
        k: int,
        include_turns: bool = False,
        where: Mapping[str, Any] | None = None,
    ) -> list[list[dict[str, Any]]]:
        """The voices of the index most like each voiceprint, best first.

        Parameters
        ----------
        voiceprints : (num_queries, dimension) float32
        k : int
        include_turns : bool
            Whether to read when the voices speak from the diarization datasets.
        where : mapping, optional
            Column to value or list of values.

        Raises
        ------
        ConfigError
            If the filter or the voiceprints do not fit the index.
        """
        self._follow()
        found = search(self._index, voiceprints, k, calibration=self._calibration, where=where)
        turns = turns_of(hit for hits in found for hit in hits) if include_turns else {}
        return [[_shown(hit, turns) for hit in hits] for hits in found]

    def _open(self) -> VoiceprintIndex | ShardedIndex:
        if self._num_shards is None:
            index = VoiceprintIndex.open(self._uri)
        else:
            index = ShardedIndex.open(self._uri, self._num_shards)
        try:
            index.check_embedding(*self._embedding)
        except VoiceprintIndexError:
            if self._num_shards is not None:
                index.close()
            raise
        return index

    def _newest(self) -> VoiceprintIndex | ShardedIndex:
        if self._num_shards is None or not len(self._index):
            return self._open()
        return self._index.refresh()

    def _follow(self) -> None:
        """Open the index anew if another generation is current; keep the old one if that fails."""
        if time.monotonic() < self._looked + _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            current, _ = read_current(Folder(self._uri))
            if current.token != self._index.generation.token:
                self._index = self._newest()
        except (VoiceprintIndexError, OSError):
            logger.exception("the voiceprint index cannot be read anew")


def _shown(hit: Hit, turns: Mapping[int, Any]) -> dict[str, Any]:
    names = ("uri", "speaker", "score", "probability", "seconds", "columns")
    shown = {"recordingId": hit.recording_id} | {name: getattr(hit, name) for name in names}
    if hit.id in turns:
        shown["turns"] = [{"start": turn.start, "end": turn.end} for turn in turns[hit.id]]
    return shown


@serve.deployment(max_ongoing_requests=4, max_queued_requests=32)
class VoiceSearchDeployment:
    """A replica with an open index."""

    def __init__(
        self, uri: str, embedding: str, embedding_mode: str, num_shards: int | None = None
    ):
        self._search = VoiceSearch(uri, embedding, embedding_mode, num_shards)

    async def search(
        self,
        voiceprints: np.ndarray,
        k: int,
        include_turns: bool,
        where: Mapping[str, Any] | None,
    ) -> list[list[dict[str, Any]]]:
        return await asyncio.to_thread(self._search, voiceprints, k, include_turns, where)
