"""All that stands on fsspec, one way each.

- `streams`: a recording as seekable bytes, from wherever it lies.
- `errors`: whose failure it is that a storage did not answer, refused, or has no such file.
- `folder`: files that appear whole or not at all (the one atomic publish), compare-and-swap.
- `lock`: one writer of a folder at a time, which renews its lock; silence gives it away.
- `tables`: columns of Parquet, CSV and JSON Lines, streamed, each row with its place.

Importing this package brings the first two only, and so neither fsspec nor pyarrow: a laptop's
file needs neither.
"""

from raydiar.storage.errors import http_status, storage_error
from raydiar.storage.streams import (
    BLOCK_BYTES,
    PROBE_BLOCK_BYTES,
    Reader,
    Source,
    display_name,
    is_remote,
    open_source,
)

__all__ = [
    "BLOCK_BYTES",
    "PROBE_BLOCK_BYTES",
    "Reader",
    "Source",
    "display_name",
    "http_status",
    "is_remote",
    "open_source",
    "storage_error",
]
