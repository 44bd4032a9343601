"""Files below a folder or prefix, listed with many requests under way at a time.

Object stores answer a listing in pages, each of which tells where the next begins: a million
objects are a thousand answers one after another. So a prefix that goes on and on is split, by the
characters that come next in its keys, among threads; how keys are spread need not be known. What
is found then comes in no order.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from queue import Empty, Full, Queue
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from raydiar.errors import ManifestError
from raydiar.failures import retrying

Found = Iterator[tuple[str, int | None]]

HIDDEN = (".", "_")
_THREADS = 16
_PAGES = 20  # one after another, before what is left of a prefix is split
_CHILDREN = 64  # parts of one split
_PAGES_AHEAD = 64
_LAST = "\U0010ffff"  # sorts after what any key goes on with


def walk(fs: AbstractFileSystem, root: str, stem: str, depth: int | None, hidden: bool) -> Found:
    """Files below a folder whose path goes on with `stem`, and their sizes in bytes where known.

    Parameters
    ----------
    depth : int or None
        Of folders, 1 being those right inside.
    hidden : bool
        Whether folders are entered whose name begins with a dot or an underscore. On S3 their
        files are found in any case: they share its pages.
    """
    if isinstance(fs, LocalFileSystem):
        return _walk_local(root or "/", depth, hidden)
    if hasattr(fs, "call_s3"):
        return _list_s3(fs, root, stem, delimiter="/" if depth == 1 else "")
    return _in_parallel(_Folders(fs, depth, hidden), (root, 1))


def _walk_local(root: str, depth: int | None, hidden: bool) -> Found:
    def refuse(error: OSError):
        raise error

    # links to folders are not followed, or what lies behind them might be listed twice
    for folder, folders, files in os.walk(root, onerror=refuse):
        inside = folder.removeprefix(root).strip("/")
        if depth is not None and len(inside.split("/") if inside else []) + 1 >= depth:
            folders.clear()
        folders[:] = sorted(n for n in folders if hidden or not n.startswith(HIDDEN))
        for name in sorted(files):
            path = os.path.join(folder, name)
            try:
                yield path, os.stat(path).st_size
            except FileNotFoundError:
                yield path, None  # a link to nowhere: decoding will say so


def _list_s3(fs: AbstractFileSystem, root: str, stem: str, delimiter: str) -> Found:
    if not root:
        raise ManifestError(f"s3://{stem}: name the bucket; there is no listing across buckets")
    bucket, key, _ = fs.split_path(root)
    keys = _Keys(fs, bucket, delimiter)
    prefix = f"{key}/{stem}".lstrip("/")
    for number, page in enumerate(keys.pages(prefix), 1):
        yield from keys.found(page)
        if number == _PAGES and not delimiter and page.get("IsTruncated"):
            yield from _in_parallel(keys, (prefix, page["Contents"][-1]["Key"]))
            return


class _Keys:
    """Lists keys of a bucket; a task is a prefix and the key after which it goes on."""

    def __init__(self, fs: AbstractFileSystem, bucket: str, delimiter: str = ""):
        self.fs, self.bucket, self.delimiter = fs, bucket, delimiter

    def pages(self, prefix: str, after: str | None = None) -> Iterator[dict]:
        request = {"Prefix": prefix, "Delimiter": self.delimiter}
        if after:
            request["StartAfter"] = after
        while True:
            page = self._ask(**request)
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def found(self, page: dict) -> list[tuple[str, int]]:
        return [
            (f"{self.bucket}/{entry['Key']}", entry["Size"])
            for entry in page.get("Contents", ())
            if not entry["Key"].endswith("/")  # consoles mark folders by empty objects
        ]

    def __call__(self, task: tuple[str, str | None], give, add, hungry) -> None:
        prefix, after = task
        for number, page in enumerate(self.pages(prefix, after), 1):
            give(self.found(page))
            if number % _PAGES == 0 and page.get("IsTruncated") and hungry():
                for part in self._split(prefix, page["Contents"][-1]["Key"]):
                    add(part)
                return

    def _split(self, prefix: str, after: str) -> list[tuple[str, str | None]]:
        """Tasks that together list what comes after a key: one for each next character."""
        while True:
            head = after[: len(prefix) + 1]
            parts: list[tuple[str, str | None]] = [(head, after)] if head != prefix else []
            last = head + _LAST if parts else after
            while len(parts) < _CHILDREN:
                rest = self._ask(Prefix=prefix, StartAfter=last, MaxKeys=1).get("Contents")
                if not rest:
                    break
                head = rest[0]["Key"][: len(prefix) + 1]
                parts.append((head, None))
                last = head + _LAST
            else:
                parts.append((prefix, last))
            if len(parts) != 1 or parts[0][1] is None:
                return parts
            prefix = parts[0][0]  # all keys go on alike: look one character further

    def _ask(self, **request: Any) -> dict:
        return retrying(
            lambda: self.fs.call_s3(
                "list_objects_v2", Bucket=self.bucket, **request, **self.fs.req_kw
            )
        )


class _Folders:
    """Lists folders of a store that fsspec knows; a task is a folder and its depth, from 1."""

    def __init__(self, fs: AbstractFileSystem, depth: int | None, hidden: bool):
        self.fs, self.depth, self.hidden = fs, depth, hidden

    def __call__(self, task: tuple[str, int], give, add, hungry) -> None:
        folder, depth = task
        files = []
        for entry in sorted(retrying(lambda: self._list(folder)), key=lambda e: e["name"]):
            name = entry["name"].rstrip("/")
            entered = self.hidden or not name.rpartition("/")[2].startswith(HIDDEN)
            if entry["type"] != "directory":
                files.append((entry["name"], entry["size"]))
            elif entered and name != folder.rstrip("/") and depth != self.depth:
                add((name, depth + 1))
        give(files)

    def _list(self, folder: str) -> list[dict]:
        return self.fs.ls(folder, detail=True)


def _in_parallel(lister: Callable, first: Any) -> Found:
    """What a lister finds from a first task on, with all the tasks that it adds."""
    tasks: Queue = Queue()
    pages: Queue = Queue(_PAGES_AHEAD)
    stopped = threading.Event()
    open_tasks = [1]
    counting = threading.Lock()
    tasks.put(first)

    def give(page) -> None:
        while not stopped.is_set():
            try:
                return pages.put(page, timeout=0.5)
            except Full:
                continue

    def add(task) -> None:
        with counting:
            open_tasks[0] += 1
        tasks.put(task)

    def work() -> None:
        while not stopped.is_set():
            try:
                task = tasks.get(timeout=0.5)
            except Empty:
                continue
            try:
                lister(task, give, add, lambda: tasks.qsize() < _THREADS)
            except BaseException as error:
                give(error)
            with counting:
                open_tasks[0] -= 1
                if not open_tasks[0]:
                    give(None)

    threads = [
        threading.Thread(target=work, name=f"listing-{n}", daemon=True) for n in range(_THREADS)
    ]
    for thread in threads:
        thread.start()
    try:
        while (page := pages.get()) is not None:
            if isinstance(page, BaseException):
                raise page
            yield from page
    finally:
        stopped.set()
