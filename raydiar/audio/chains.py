"""Recordings that are several files one after another: chained Ogg, WAV and MP4 put together.

Radio streams and `cat` make them. FFmpeg reads the first, or stumbles over the second when it has
another rate, and calls that the end. Here each link is opened for itself, on a timeline that goes
on from one to the next.
"""

from itertools import pairwise

from raydiar.audio.headers import find_samples
from raydiar.audio.views import View
from raydiar.storage import Reader

_SCAN_BYTES = 2**20
_FIRST_PAGE = b"OggS\0\2"  # begins a logical stream
_FLAC = b"fLaC\0\0\0\x22"  # begins a file, with a description of 34 bytes
_LAST_FLAC = b"fLaC\x80\0\0\x22"  # the same where nothing else describes it
_PAGE_HEADER = 27
_TAIL_BYTES = 2**17
_MOST_BOXES = 1000


def links(reader: Reader) -> list[Reader]:
    """The files of which a recording is made: nearly always itself alone."""
    size = reader.size()
    head = reader.read(12)
    # Looking through a remote file would fetch it twice.
    if head[:4] == b"OggS":
        begins = _ogg_links(reader, size)
    elif head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:] == b"WAVE":
        begins = _wav_links(reader, size)
    elif head[:4] == b"fLaC" and not reader.remote:
        begins = sorted({0, *_find_all(reader, size, _FLAC), *_find_all(reader, size, _LAST_FLAC)})
    elif head[4:8] == b"ftyp" and not reader.remote:
        begins = _mp4_links(reader, size)
    else:
        begins = [0]
    if len(begins) == 1:
        return [reader]
    return [View(reader, begin, end) for begin, end in pairwise([*begins, size])]


def _ogg_links(reader: Reader, size: int) -> list[int]:
    """A link begins with the first pages of its streams, next to each other."""
    if reader.remote and not _ends_in_another_stream(reader, size):
        return [0]
    begins: list[int] = []
    after_first_page = -1
    for place in _find_all(reader, size, _FIRST_PAGE):
        if place != after_first_page:
            begins.append(place)
        after_first_page = place + _page_length(reader, place)
    return begins or [0]


def _ends_in_another_stream(reader: Reader, size: int) -> bool:
    """Whether the last page belongs to none of the streams that the file begins with."""
    serials, place = set(), 0
    while (page := _at(reader, place, _PAGE_HEADER)).startswith(_FIRST_PAGE):
        serials.add(page[14:18])
        place += _page_length(reader, place)
    tail = _at(reader, max(0, size - _TAIL_BYTES), _TAIL_BYTES)
    last = tail.rfind(b"OggS\0")
    return last >= 0 and tail[last + 14 : last + 18] not in serials


def _page_length(reader: Reader, place: int) -> int:
    header = _at(reader, place, _PAGE_HEADER + 255)
    count = header[26] if len(header) > 26 else 0
    return _PAGE_HEADER + count + sum(header[_PAGE_HEADER : _PAGE_HEADER + count])


def _find_all(reader: Reader, size: int, needle: bytes) -> list[int]:
    found, place = [], 0
    while place < size and (block := _at(reader, place, _SCAN_BYTES)):
        at = block.find(needle)
        while at >= 0:
            found.append(place + at)
            at = block.find(needle, at + 1)
        # the next block begins within this one, by less than a needle
        place += max(1, len(block) - len(needle) + 1)
    return found


def _wav_links(reader: Reader, size: int) -> list[int]:
    begins = [0]
    while True:
        samples = find_samples(View(reader, begins[-1], size))
        if samples is None:
            return begins
        end = begins[-1] + samples.end
        following = (end + (samples.end - samples.begin) % 2, end)
        begin = next((at for at in following if _is_wav(_at(reader, at, 12))), None)
        if begin is None or begin <= begins[-1]:
            return begins
        begins.append(begin)


def _is_wav(head: bytes) -> bool:
    return head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:] == b"WAVE"


def _mp4_links(reader: Reader, size: int) -> list[int]:
    begins, place, has_index = [0], 0, False
    for _ in range(_MOST_BOXES):
        header = _at(reader, place, 16)
        if len(header) < 8:
            break
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # to the end of the file
            break
        if kind == b"ftyp" and has_index:
            begins.append(place)
            has_index = False
        has_index |= kind == b"moov"
        place += length
    # without an index of its own a link is no file
    return begins if has_index else [*begins[:-1]] or [0]


def _at(reader: Reader, place: int, size: int) -> bytes:
    if place >= 2**62:  # a size out of a damaged header: no file reaches there
        return b""
    reader.seek(place)
    return reader.read(size)
