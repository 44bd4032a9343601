"""What a recording is called: in ids, rows, messages, logs and file names, without secrets.

A URL often carries what opens the door: a signature in its query, a password before its host.
It is requested byte for byte as given, and told only as `public_uri` has it. So a URL that is
signed anew still names the same recording. Names of local files are bytes: those that are no
UTF-8 travel as `file://` URIs with escapes, and are shown with backslashes.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

AUDIO_ENDINGS = frozenset(
    (
        *(".wav", ".aif", ".aiff", ".caf", ".sph", ".au", ".flac", ".w64", ".rf64"),
        *(".mp3", ".mp2", ".ogg", ".oga", ".m4a", ".m4b", ".aac", ".wma", ".ac3", ".ape"),
        *(".opus", ".amr", ".3gp", ".mka", ".wv"),
        *(".mp4", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".ts", ".m4v", ".flv", ".wmv"),
    )
)
"""By which files of audio, or video, are known in a folder."""

_LOCAL = ("file", "local")
_WEB = ("http", "https", "webdav", "webdavs", "dav", "davs", "ws", "wss", "ftp", "ftps", "sftp")
# the name before "@" is a container there, not a user
_CONTAINERS = ("abfs", "abfss", "wasb", "wasbs", "az", "adl")
_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*(?:://|::|$))")
_SECRET = (
    r"x-amz-[\w-]+|x-goog-[\w-]+|googleaccessid|awsaccesskeyid|signature|sig|hmac|"
    r"(?:\w+[_-])?token|(?:\w+[_-]?)?key(?:[_-]?id)?|credentials?|passw(?:or)?d|pwd|secret|auth|"
    r"code|policy|expires"
)
_SECRET_QUERY = re.compile(rf"\?(?=(?:[^/]*&)?(?:{_SECRET})=)", re.IGNORECASE)
_SECRET_FIELD = re.compile(rf"([?&](?:{_SECRET})=)[^\s&'\"<>)]+", re.IGNORECASE)
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>`]+")
_CLOSING = ".,;:!)]}…"


def is_audio(name: str) -> bool:
    """Whether a file is audio or video, by its name."""
    base = re.split(r"[/\\]", name)[-1]
    return os.path.splitext(base)[1].lower() in AUDIO_ENDINGS and not base.startswith(".")


# -- without secrets ---------------------------------------------------------------------------


def public_uri(uri: str | os.PathLike) -> str:
    """A URI as everybody may read it: no user, no password, no query.

    A fragment stays, which no server is sent: members of shards are named by it. Keys of object
    stores keep a "?" that is part of the name. Of a chain (`zip://a.wav::
    https://…`) every link is treated so. Paths stay as they are, but for bytes that are no UTF-8.
    """
    return "::".join(_public_link(link) for link in _CHAIN.split(printable(os.fspath(uri))))


def _public_link(link: str) -> str:
    scheme, separator, rest = link.partition("://")
    lowered = scheme.lower()
    if not separator or lowered in _LOCAL or not re.fullmatch(r"[a-z][a-z0-9+.-]*", lowered):
        return link
    web = lowered in _WEB or "http" in lowered
    end = re.search(r"[/?#]" if web else "/", rest)
    host, path = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    port = host.rpartition(":")[2]
    if "@" not in host and ":" in host and "@" in path and not re.fullmatch(r"[\d\]]*", port):
        host, _, path = f"{host}{path}".partition("@")[2].partition("/")  # a password with a slash
        path = f"/{path}"
    user, at, bare = host.rpartition("@")
    if at and not (lowered in _CONTAINERS and ":" not in user):
        host = bare
    if not web:
        return f"{scheme}://{host}{_SECRET_QUERY.split(path, maxsplit=1)[0]}"
    path, mark, fragment = path.partition("#")
    path = path.partition("?")[0]
    if _SECRET_FIELD.search(f"?{fragment}"):
        mark = fragment = ""
    return f"{scheme}://{host}{path}{mark}{fragment}"


def without_secrets(text: str) -> str:
    """A message, such as an exception of a storage client, with every URL in it made public."""
    if "://" in text:
        text = _URL_IN_TEXT.sub(_public_match, text)
    return _SECRET_FIELD.sub(r"\1…", text) if "=" in text else text


def _public_match(match: re.Match) -> str:
    url = match[0]
    public = public_uri(url)
    if public == url:
        return url
    closing = url[len(url.rstrip(_CLOSING)) :]
    return public if public.endswith(closing) else public + closing


# -- names -------------------------------------------------------------------------------------


def recording_name(source: str | os.PathLike) -> str:
    """Name of a recording in RTTM and JSON: its file's name without the ending.

    Parameters
    ----------
    source : str or path
        A path or URI; of a URI only the path counts.
    """
    uri = public_uri(source)
    path = uri
    if "://" in uri:
        link = _CHAIN.split(uri)[0]
        scheme, separator, rest = link.partition("://")
        path = rest if separator else uri.rpartition("://")[2]
        if scheme.lower() in (*_LOCAL, *_WEB):
            path = printable(os.fsdecode(unquote_to_bytes(path.partition("#")[0])))
    name = PurePosixPath(path.rstrip("/")).name
    return re.sub(r"[\x00-\x1f\x7f/]+", "_", PurePosixPath(name).stem) or "recording"


def file_name(name: str) -> str:
    """A name that RTTM and file systems can hold: no white space, no slash, nothing hidden."""
    return re.sub(r"[\s/\\\x00-\x1f\x7f]+", "_", printable(name)).lstrip(".") or "recording"


def distinct_names(sources: Sequence[str | os.PathLike]) -> list[str]:
    """Names of recordings that tell them apart, each by as little as it takes.

    A name alone where it is the only one of its kind; else with its ending (`call.mp3`,
    `call.wav`), with the folders above it (`monday-call`, `tuesday-call`), and where all that is
    equal, with a number.
    """
    names = [file_name(recording_name(source)) for source in sources]
    groups: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        groups.setdefault(name, []).append(number)
    for clashing in groups.values():
        if len(clashing) > 1:
            renamed = _told_apart([_readable_path(sources[number]) for number in clashing])
            for number, name in zip(clashing, renamed, strict=True):
                names[number] = name
    return _numbered(names)


def _told_apart(paths: list[PurePosixPath]) -> list[str]:
    """Names of files of one name: with endings within a folder, and folders above them."""
    siblings = Counter((path.parent, path.suffix) for path in set(paths))
    in_folder = Counter(folder for folder, _ in siblings)
    tails = [path.name if in_folder[path.parent] > 1 else path.stem for path in paths]
    for depth in range(max(len(path.parts) for path in paths)):
        names = [
            file_name("-".join((*path.parts[:-1][len(path.parts) - 1 - depth :], tail)))
            for path, tail in zip(paths, tails, strict=True)
        ]
        if len(set(names)) == len(set(paths)):
            return names
    return [file_name(tail) for tail in tails]


def _readable_path(source: str | os.PathLike) -> PurePosixPath:
    uri = public_uri(source)
    if "://" not in uri:
        return PurePosixPath(os.path.abspath(uri))
    return PurePosixPath(unquote(uri.partition("://")[2]))


def _numbered(names: list[str]) -> list[str]:
    times, taken = Counter(names), set(names)
    numbered, seen = [], Counter()
    for name in names:
        if times[name] > 1:
            stem = name
            while name in taken:
                seen[stem] += 1
                name = f"{stem}-{seen[stem]}"
            taken.add(name)
        numbered.append(name)
    return numbered


# -- local files -------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Text that is UTF-8: bytes of a file name that are not show as `\\xe9`."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        pass
    try:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a half of a pair, which no file name gives
        return text.encode("utf-8", "backslashreplace").decode()


def local_path(uri: str | os.PathLike) -> str | None:
    """The file that a path or `file://` URI names on this machine; None for any other URI.

    Escapes of a `file://` URI are resolved, as `pathlib.Path.as_uri` and browsers write them. A
    URI that was put together without escapes is taken literally where only that file exists.
    """
    uri = os.fspath(uri)
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    if scheme.lower() not in _LOCAL or "::" in scheme:
        return None
    literal = rest.removeprefix("localhost") if rest.startswith("localhost/") else rest
    unquoted = os.fsdecode(unquote_to_bytes(literal.encode("utf-8", "surrogateescape")))
    if unquoted != literal and not os.path.exists(unquoted) and os.path.exists(literal):
        return literal
    return unquoted


def clean_uri(path: str) -> str:
    """A local path as text that tables can hold: itself, or a `file://` URI if it is no UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        escaped = quote_from_bytes(os.fsencode(os.path.abspath(path)), safe="/")
        return f"file://{escaped}"
    return path
