"""Small objects fetched ahead of their decoding, a dozen at a time.

A clip behind 30 ms of storage takes longer to come than to decode. Objects of more than a few MB
are left to the decoder, which reads them in blocks as it goes; so is whatever cannot be fetched,
since the decoder knows how to say what is wrong with it.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from raydiar.storage import Source, display_name, is_remote
from raydiar.storage.streams import as_given

AHEAD = 12  # objects
SMALL_BYTES = 8 * 2**20  # hence at most 96 MiB in all
_LARGE_IN_A_ROW = 2  # objects of unknown size, before no more are tried


class NamedBytes(io.BytesIO):
    """The bytes of a recording, with a name for messages."""

    def __init__(self, data: bytes, name: str):
        super().__init__(data)
        self.name = name


def prefetched(recordings: Iterable[dict]) -> Iterator[tuple[dict, Source]]:
    """Recordings of a manifest with where to read each from: memory if it was fetched, or its URI.

    The channels of one file that follow each other share one fetch.
    """
    fetches = _Fetches()
    waiting: deque[tuple[dict, Future | None]] = deque()
    threads = ThreadPoolExecutor(AHEAD, thread_name_prefix="prefetch")
    try:
        for recording in recordings:
            waiting.append((recording, fetches.begin(threads, recording)))
            if len(waiting) > AHEAD:
                yield _ready(*waiting.popleft())
        while waiting:
            yield _ready(*waiting.popleft())
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _ready(recording: dict, fetch: Future | None) -> tuple[dict, Source]:
    data = None if fetch is None else fetch.result()
    if data is None:
        return recording, recording["uri"]
    return recording, NamedBytes(data, display_name(recording["uri"]))


class _Fetches:
    def __init__(self):
        self._uri, self._latest = None, None
        self._large_in_a_row = 0

    def begin(self, threads: ThreadPoolExecutor, recording: dict) -> Future | None:
        uri, size = recording["uri"], recording["size"]
        if not is_remote(uri) or (size or 0) > SMALL_BYTES:
            return None
        if size is None and self._large_in_a_row >= _LARGE_IN_A_ROW:
            return None
        if uri != self._uri:
            self._uri, self._latest = uri, threads.submit(self._fetch, uri, size)
        return self._latest

    def _fetch(self, uri: str, size: int | None) -> bytes | None:
        try:
            data = fetch_small(uri, size)
        except Exception:
            return None
        if size is None:
            self._large_in_a_row = self._large_in_a_row + 1 if data is None else 0
        return data


def fetch_small(uri: str, size: int | None = None) -> bytes | None:
    """The bytes of an object by one request; None if there are more than `SMALL_BYTES`.

    Parameters
    ----------
    size : int, optional
        Where it is known.
    """
    from fsspec.core import url_to_fs

    uri, options = as_given(uri)
    fs, path = url_to_fs(uri, **options)
    if uri.lower().startswith(("http://", "https://")):
        # as a stream, since a server that ignores ranges would send all of it
        with fs.open(path, "rb", block_size=0) as stream:
            data = _read(stream, SMALL_BYTES + 1)
    elif size is not None:
        data = fs.cat_file(path)
    else:
        data = fs.cat_file(path, start=0, end=SMALL_BYTES + 1)
    return data if len(data) <= SMALL_BYTES else None


def _read(stream, most: int) -> bytes:
    parts, left = [], most
    while left and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
