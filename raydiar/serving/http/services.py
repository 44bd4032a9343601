"""What the routes of the server stand on; whoever starts a server puts it together."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from raydiar.serving.jobs.store import JobStore
from raydiar.serving.jobs.versions import Versions
from raydiar.serving.media.records import MediaRecords
from raydiar.serving.media.store import MediaStore
from raydiar.serving.settings import ServeSettings
from raydiar.serving.storage.keys import KeyRing
from raydiar.serving.storage.secrets import WebhookSecrets

# (voiceprints (n, dimension) float32, k, include_turns, where) -> matches of each, best first
Search = Callable[
    [np.ndarray, int, bool, dict[str, Any] | None], Awaitable[list[list[dict[str, Any]]]]
]


def _nobody() -> None:
    """Wake nobody."""


@dataclass(frozen=True)
class Services:
    """
    Attributes
    ----------
    settings : ServeSettings
    jobs : JobStore
    versions : Versions
    media : MediaStore
    media_records : MediaRecords
    keys : KeyRing
    webhook_secrets : WebhookSecrets
    search : callable or None
        Coroutine function that takes voiceprints (n, dimension) float32, how many matches of each
        are wanted, whether with turns, and conditions on columns; None without an index.
    embedding, embedding_mode : str
        Of the voiceprints that the pipeline makes, see `raydiar.serving.results.voiceprint_text`.
    dimension : int
    anonymous : bool
        Whether there are no keys and every caller is the owner "local": for a server that only its
        own machine reaches.
    wake : callable
        Called when a job was queued, in any thread: a worker that is idle looks at once then, not
        only when it would anyway.
    """

    settings: ServeSettings
    jobs: JobStore
    versions: Versions
    media: MediaStore
    media_records: MediaRecords
    keys: KeyRing
    webhook_secrets: WebhookSecrets
    search: Search | None
    embedding: str
    embedding_mode: str
    dimension: int
    anonymous: bool = False
    wake: Callable[[], object] = _nobody

    def may_search(self, owner: str) -> bool:
        """Whether there is an index, and this owner may look for voices in it."""
        allowed = self.settings.index_keys
        return self.search is not None and (allowed is None or owner in allowed)
