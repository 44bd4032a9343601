"""`hf://org/repo[@revision]/path` and `org/repo`: files of the Hugging Face Hub.

huggingface_hub keeps the cache, the tokens and the rules (revisions, gates, `HF_HUB_OFFLINE`), so
that everything else on the machine finds the same files. Bytes are brought here, because it throws
away what it has when a download breaks off: a partial file, named by the content it will have, is
continued by the next try, in this process or another one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raydiar.errors import WeightsNotFound
from raydiar.hub.files import ELSEWHERE, join, lock, names_file, sha256_of

_REPO = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^/]+))?(/(?P<path>.+))?")
_PATIENCE = 5  # tries in a row that bring not a byte
_WEB = "https://huggingface.co"


def is_repository(uri: str, folder: str = ".") -> bool:
    """Whether a text names a Hub repository, or a file of one.

    A path that was mistyped must not be asked of the Hub: one that begins with a dot, ends like a
    file, or leads into a folder that there is. `hf://` in front says that the Hub is meant.
    """
    if uri.startswith("hf://"):
        return True
    if uri.startswith((".", "~")) or names_file(uri) or _REPO.fullmatch(uri) is None:
        return False
    organisation = uri.partition("/")[0]
    # the sources of pyannote.audio have a folder of this name
    return organisation == "pyannote" or not os.path.isdir(os.path.join(folder, organisation))


def hub_token(token: str | bool | None) -> str | bool | None:
    """The token to show the Hub: a key of pyannoteAI, which is none of its own, stays here."""
    if isinstance(token, str) and not token.startswith("hf_"):
        return None
    return token


def fetch_hf(
    uri: str,
    filename: str | None,
    subfolder: str | None,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
) -> Path:
    """One file of a Hub repository; parameters as in `raydiar.hub.fetch`."""
    match = _REPO.fullmatch(uri.removeprefix("hf://"))
    if match is None:
        raise WeightsNotFound(f"{uri}: expected hf://org/repo[@revision]/path or org/repo")
    if match["revision"] and revision and match["revision"] != revision:
        raise WeightsNotFound(f"{uri}: the URI and `revision={revision}` disagree")
    path = join(match["path"] or "", subfolder, filename)
    if not path:
        raise WeightsNotFound(f"{uri}: name a file in this repository")
    revision = match["revision"] or revision
    try:
        return _in_cache(match["repo"], path, revision, hub_token(token), cache_dir)
    except WeightsNotFound:
        raise
    except Exception as error:  # of huggingface_hub, of its HTTP client, of the disk
        raise WeightsNotFound(_explain(error, match["repo"], path, revision, token)) from error


def _in_cache(repo, path, revision, token, cache_dir) -> Path:
    from huggingface_hub import (
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RevisionNotFoundError,
    )

    def known(revision: str | None):
        found = try_to_load_from_cache(repo, path, cache_dir=cache_dir, revision=revision)
        return found if isinstance(found, str) else None

    arguments = {"revision": revision, "cache_dir": cache_dir, "token": token}
    try:
        metadata = get_hf_file_metadata(hf_hub_url(repo, path, revision=revision), token=token)
    except (EntryNotFoundError, RevisionNotFoundError):
        raise
    except Exception as error:
        # As huggingface_hub itself does: what is here may be used, whatever ails the network.
        try:
            return Path(hf_hub_download(repo, path, local_files_only=True, **arguments))
        except LocalEntryNotFoundError:
            raise error from None
    pointer = known(metadata.commit_hash)
    if pointer is None or known(revision) != pointer:
        _bring(repo, path, metadata, token, cache_dir)
        pointer = hf_hub_download(repo, path, **arguments)  # finds the bytes, and names them
    return Path(pointer)


def _bring(repo: str, path: str, metadata: Any, token, cache_dir: str | Path | None) -> None:
    """Put the content of a file where huggingface_hub's cache holds it, if it is not there."""
    from huggingface_hub import constants

    if metadata.etag is None or metadata.commit_hash is None:
        return  # no Hub, or not quite one: left to huggingface_hub, which says so
    folder = Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / metadata.etag
    with lock(folder / "raydiar" / metadata.etag):
        if blob.is_file():
            return
        partial = folder / "raydiar" / f"{metadata.etag}.partial"
        _download(metadata, token, partial, f"{repo}/{path}")
        if not _is_content(partial, metadata.etag):
            partial.unlink()
            raise WeightsNotFound(
                f"{repo}/{path}: what arrived is not what the Hub says it is (ETag "
                f"{metadata.etag}); it was thrown away: run the same command again"
            )
        blob.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, blob)


def _download(metadata: Any, token, partial: Path, name: str) -> None:
    """Download into a partial file, going on from what is in it."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, tqdm

    headers = build_hf_headers(token=token)
    headers["Accept-Encoding"] = "identity"
    if not _same_host(metadata.location):
        headers.pop("authorization", None)  # a signed URL of somebody else's
    left = _PATIENCE
    with (
        open(partial, "ab") as file,
        tqdm(total=metadata.size, unit="B", unit_scale=True, desc=name, disable=None) as bar,
    ):
        while metadata.size is None or file.tell() < metadata.size:
            before = file.tell()
            bar.update(before - bar.n)
            asked = {**headers, "Range": f"bytes={before}-"} if before else headers
            try:
                with get_session().stream(
                    "GET", metadata.location, headers=asked, follow_redirects=True, timeout=60
                ) as response:
                    hf_raise_for_status(response)
                    if before and response.status_code != 206:
                        file.truncate(0)  # it does not know ranges, and sends all again
                        file.seek(0)
                    for block in response.iter_raw():
                        file.write(block)
                        bar.update(len(block))
                if metadata.size is None:
                    return
                if file.tell() > before:
                    left = _PATIENCE
                    continue
                left -= 1
            except Exception as error:
                file.flush()
                left = _PATIENCE if file.tell() > before else left - 1
                if left <= 0 or not _passing(error):
                    raise
            if left <= 0:
                raise ConnectionError(f"the connection breaks off at byte {file.tell()}")
            time.sleep(2.0 ** (_PATIENCE - left) / 4)


def _same_host(url: str) -> bool:
    from urllib.parse import urlsplit

    from huggingface_hub import constants

    return urlsplit(url).netloc == urlsplit(constants.ENDPOINT).netloc


def _passing(error: Exception) -> bool:
    """Whether the same request may well succeed in a moment."""
    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code in (408, 429) or response.status_code >= 500
    # Errors of the transport have no class in common that every version of the client exports.
    return not isinstance(error, OSError) or isinstance(error, ConnectionError | TimeoutError)


def _is_content(path: Path, etag: str) -> bool:
    """Whether a file is what its ETag says: a SHA-256, or Git's own SHA-1 of small files."""
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        return sha256_of(path) == etag
    if re.fullmatch(r"[0-9a-f]{40}", etag):
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        digest.update(path.read_bytes())
        return digest.hexdigest() == etag
    return True


# -- what to do about it -----------------------------------------------------------------------


def _explain(error: Exception, repo: str, path: str, revision: str | None, token) -> str:
    """One message: what is wrong, and the command that mends it."""
    from huggingface_hub import errors

    what = f"{repo}/{path}" + (f" at revision {revision}" if revision else "")
    again = f"raydiar models download {repo}" + (f" --revision {revision}" if revision else "")
    elsewhere = ELSEWHERE.format(what=f" {repo}")
    refused = isinstance(token, str) and hub_token(token) is None
    unsent = " (the token given is no `hf_…` of the Hub's, and was not sent)" if refused else ""
    status = getattr(getattr(error, "response", None), "status_code", None)

    kinds: list[tuple[type[Exception], Callable[[], str]]] = [
        (
            errors.GatedRepoError,
            lambda: (
                f"{repo} is gated: accept its conditions at {_WEB}/{repo} while logged in, make a "
                f"token at {_WEB}/settings/tokens, then `{again} --token hf_…` (or set HF_TOKEN); "
                f"the default pipeline needs none{unsent}"
            ),
        ),
        (
            errors.RepositoryNotFoundError,
            lambda: (
                f"the Hub knows no repository {repo}, or shows it to nobody without a token"
                f"{unsent}: check the name at {_WEB}/{repo}; if it is private, "
                f"`{again} --token hf_…` (or set HF_TOKEN)"
            ),
        ),
        (
            errors.RevisionNotFoundError,
            lambda: (
                f"{repo} has no revision {revision!r}: choose one of those at "
                f"{_WEB}/{repo}/commits/main, or leave it out: `raydiar models download {repo}`"
            ),
        ),
        (
            errors.OfflineModeIsEnabled,
            lambda: (
                f"{what} is not in the local cache and HF_HUB_OFFLINE is set: "
                f"`HF_HUB_OFFLINE=0 {again}`, {elsewhere}"
            ),
        ),
        (
            errors.LocalEntryNotFoundError,
            lambda: (
                f"{what} is not in the local cache and the Hub cannot be reached: "
                f"`{again}`, {elsewhere}"
            ),
        ),
        (
            errors.EntryNotFoundError,
            lambda: (
                f"{repo} holds no file {path}" + (f" at {revision!r}" if revision else "") + ": "
                f"look at {_WEB}/{repo}/tree/{revision or 'main'} and name another file, "
                "subfolder or revision"
            ),
        ),
        (
            errors.HFValidationError,
            lambda: f"{repo!r} is no name of a Hub repository, which is org/name ({error})",
        ),
    ]
    for kind, message in kinds:
        if isinstance(error, kind):
            return message()
    if status == 401:
        return (
            f"{repo}: the Hub does not take this token: make another at {_WEB}/settings/tokens, "
            f"then `{again} --token hf_…`"
        )
    if status == 403:
        return (
            f"{repo}: this token may not read it: ask for access at {_WEB}/{repo}, or give it the "
            f"right to read gated repositories at {_WEB}/settings/tokens, then `{again}`"
        )
    if status is not None:
        return f"{what}: the Hub answers {status}; wait a little, then `{again}`"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{what}: the disk of the cache is full: make room, or name another with "
            f"`{again} --cache DIR`"
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return (
            f"{what}: the cache cannot be written ({error}): name a folder of your own with "
            f"`{again} --cache DIR`"
        )
    told = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"{what} is not in the local cache and the Hub cannot be reached or breaks off ({told}): "
        f"`{again}` goes on from what has arrived, {elsewhere}"
    )
