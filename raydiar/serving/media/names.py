"""How uploads are named: `media://` and a key that their client chose."""

import re

from raydiar.errors import MediaKeyError

SCHEME = "media://"
MAX_KEY = 512

_KEY = re.compile(r"[A-Za-z0-9._/-]+", re.ASCII)


def media_key(url: str) -> str:
    """The key in a `media://<key>` URL.

    Raises
    ------
    MediaKeyError
    """
    if not url.startswith(SCHEME):
        raise MediaKeyError(f"An upload is named by {SCHEME}<key>, a key of your own choice.")
    key = url.removeprefix(SCHEME)
    check_key(key)
    return key


def check_key(key: str) -> None:
    """Hold a key to what a key can be.

    Raises
    ------
    MediaKeyError
        If a key is empty or longer than 512 characters, holds others than letters, digits, "-",
        "_", "." and "/", or has an empty part, "." or ".." between slashes.
    """
    if not key or len(key) > MAX_KEY:
        raise MediaKeyError(f"A media key has 1 to {MAX_KEY} characters, not {len(key)}.")
    if not _KEY.fullmatch(key):
        raise MediaKeyError('A media key holds only ASCII letters, digits, "-", "_", "." and "/".')
    # HTTP clients take such parts out of URLs; they are never looked up as paths
    if {"", ".", ".."} & set(key.split("/")):
        raise MediaKeyError('The parts of a media key between "/" must not be empty, "." or "..".')
