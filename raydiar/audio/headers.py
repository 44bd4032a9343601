"""Uncompressed files by their own length, where their header says too little, nothing or nonsense.

Sizes in headers are written last, if at all: a recorder that is switched off leaves zero, a pipe
cannot go back, 32 bits wrap at 4 GiB, and the redundant fields of a WAV are filled in by hand. The
bytes that are there decide. FFmpeg is then shown the file as it should have been: the same bytes
with some fields put right, ending where the samples end.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from raydiar.audio.views import View
from raydiar.storage import Reader

_MOST_CHUNKS = 10_000
_SCAN_BYTES = 2**20
# What programs write that cannot go back: 2 or 4 GiB, less headers and round numbers (sox, FFmpeg).
_STREAMED = ((0x7F000000, 0x80010000), (0xFF000000, 0x1_0000_0000))
# PCM, float, A-law, mu-law: one sample of a channel takes a fixed number of bytes.
_FLAT_TAGS = {1, 3, 6, 7}
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICS")


@dataclass(frozen=True)
class SampleChunk:
    """Where the samples of an uncompressed file lie.

    Attributes
    ----------
    begin, end : int
        Bytes of the file that hold samples.
    stated_end : int or None
        As the header has it, which may be after the end of the file; None if it states nothing.
    bytes_per_second : int
        0 if unknown.
    patches : dict
        What the header should say, by place (`View`).
    cut : bool
        Whether FFmpeg is better not shown what comes after the samples.
    """

    begin: int
    end: int
    stated_end: int | None
    bytes_per_second: int
    patches: dict[int, bytes] = field(default_factory=dict)
    cut: bool = False

    @property
    def seconds(self) -> float | None:
        """What the file holds."""
        return self._seconds(self.end)

    @property
    def stated_seconds(self) -> float | None:
        """What it should hold: more than it does, if it is truncated."""
        return self._seconds(max(self.end, self.stated_end or 0))

    def _seconds(self, end: int) -> float | None:
        return (end - self.begin) / self.bytes_per_second if self.bytes_per_second else None

    def shown(self, reader: Reader) -> Reader:
        """The file as FFmpeg should see it."""
        if not self.patches and not self.cut:
            return reader
        return View(reader, end=self.end if self.cut else None, patches=self.patches)

    def warning(self) -> str | None:
        """What the user should know: that the header stated less than there is."""
        if self.stated_end is None or self.stated_end >= self.end or not self.bytes_per_second:
            return None
        stated = self._seconds(self.stated_end)
        return (
            f"the header states {stated:.1f} s of audio, but the file goes on: all "
            f"{self.seconds:.1f} s were taken."
        )


def find_samples(reader: Reader) -> SampleChunk | None:
    """Find the samples of a WAV, RF64, BW64, Wave64, AIFF, AU, CAF or AMR; None for others."""
    size = reader.size()
    head = _at(reader, 0, 40)
    if head[:5] == b"#!AMR":
        # of frames without a length of their own zeros would be some
        return SampleChunk(0, _without_zeros(reader, size), None, 0, cut=True)
    for matches, parse in _FORMATS:
        if matches(head):
            return parse(reader, size, head)
    return None


def _at(reader: Reader, place: int, size: int) -> bytes:
    if place >= 2**62:  # a size out of a damaged header: no file reaches there
        return b""
    reader.seek(place)
    return reader.read(size)


# -- WAV and its larger relatives ------------------------------------------------------------------


def _wav(reader: Reader, size: int, head: bytes) -> SampleChunk | None:
    order = "big" if head[:4] == b"RIFX" else "little"
    large = head[:4] in (b"RF64", b"BW64")
    rate, patches, stated_large, size_place = 0, {}, None, None
    for place, kind, stated in _chunks(reader, 12, size, order):
        if kind == b"ds64" and large:
            size_place = place + 16
            stated_large = int.from_bytes(_at(reader, size_place, 8), "little")
        elif kind == b"fmt ":
            rate, patches = _wav_format(_at(reader, place + 8, min(stated, 40)), place + 8, order)
        elif kind == b"data":
            if large and stated == 0xFFFFFFFF and stated_large is not None:
                stated = stated_large if stated_large < 2**62 else 0
            begin = place + 8
            end, stated_end = _true_end(reader, begin, stated, size, order)
            wrong = end != min(begin + stated, size)
            if wrong and large and size_place is not None:
                patches[size_place] = (end - begin).to_bytes(8, "little")
                patches[place + 4] = b"\xff\xff\xff\xff"
            elif wrong:
                # no limit but the end of what is shown, also beyond 4 GiB
                patches[place + 4] = b"\xff\xff\xff\xff"
            return SampleChunk(begin, end, stated_end, rate, patches, cut=end < size)
    return None


def _wav_format(chunk: bytes, place: int, order: str) -> tuple[int, dict[int, bytes]]:
    """Bytes a second by a `fmt ` chunk, and its redundant fields put right."""
    if len(chunk) < 16:
        return 0, {}
    tag, channels = (int.from_bytes(chunk[at : at + 2], order) for at in (0, 2))
    rate, stated_rate = (int.from_bytes(chunk[at : at + 4], order) for at in (4, 8))
    stated_block, bits = (int.from_bytes(chunk[at : at + 2], order) for at in (12, 14))
    if tag == 0xFFFE and len(chunk) >= 26:
        tag = int.from_bytes(chunk[24:26], order)
    if tag not in _FLAT_TAGS or bits == 0 or bits > 64:
        return (0 if tag in _FLAT_TAGS else stated_rate), {}
    block = channels * ((bits + 7) // 8)
    if not 0 < block < 2**16 or not 0 < block * rate < 2**32:
        return 0, {}
    patches = {}
    if stated_block != block:
        patches[place + 12] = block.to_bytes(2, order)
    if stated_rate != block * rate:
        patches[place + 8] = (block * rate).to_bytes(4, order)
    return block * rate, patches


_W64_GUID_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")


def _w64(reader: Reader, size: int, head: bytes) -> SampleChunk | None:
    place, rate, patches = 40, 0, {}
    for _ in range(_MOST_CHUNKS):
        header = _at(reader, place, 24)
        if len(header) < 24:
            return None
        kind, stated = header[:4], int.from_bytes(header[16:], "little")
        if kind == b"fmt " and header[4:16] == _W64_GUID_TAIL:
            rate, patches = _wav_format(_at(reader, place + 24, 40), place + 24, "little")
        if kind == b"data" and header[4:16] == _W64_GUID_TAIL:
            begin = place + 24
            content = None if stated < 24 or stated >= 2**62 else stated - 24
            follows = None if content is None else begin + content + -content % 8
            if content is None or begin + content > size:
                end = size
            elif follows + 24 <= size and _at(reader, follows + 4, 12) != _W64_GUID_TAIL:
                end = begin + content if _is_silent(reader, begin + content, size) else size
            else:
                end = begin + content
            wrong = content is None or end > begin + content
            if wrong:
                patches[place + 16] = (end - begin + 24).to_bytes(8, "little")
            stated_end = None if content is None or _is_streamed(content) else begin + content
            return SampleChunk(begin, end, stated_end, rate, patches, cut=end < size)
        if stated < 24:
            return None
        place += stated + -stated % 8
    return None


# -- other families --------------------------------------------------------------------------------


def _aiff(reader: Reader, size: int, head: bytes) -> SampleChunk | None:
    rate, patches, frames_place, block = 0, {}, None, 0
    found = None
    for place, kind, stated in _chunks(reader, 12, size, "big"):
        if kind == b"COMM":
            chunk = _at(reader, place + 8, 22)
            rate, block = _aiff_format(chunk, head[8:12])
            frames_place = place + 10
        elif kind == b"SSND":
            begin = place + 16
            end, stated_end = _true_end(reader, begin, stated - 8, size, "big")
            found = (place, begin, end, stated_end, stated)
            if end != min(begin + stated - 8, size):
                break  # what follows are samples
    if found is None:
        return None
    place, begin, end, stated_end, stated = found
    wrong = end != min(begin + stated - 8, size)
    if wrong and end - begin + 8 < 2**32:
        patches[place + 4] = (end - begin + 8).to_bytes(4, "big")
        if frames_place is not None and block:
            patches[frames_place] = ((end - begin) // block).to_bytes(4, "big")
    if int.from_bytes(head[4:8], "big") < end - 8:
        patches[4] = min(end - 8, 2**32 - 1).to_bytes(4, "big")
    # a description may come after the samples, but not after zeros
    cut = wrong or _is_silent(reader, end, size)
    return SampleChunk(begin, end, stated_end, rate, patches, cut)


def _aiff_format(chunk: bytes, form: bytes) -> tuple[int, int]:
    """Bytes a second, and a sample of all channels, by a `COMM` chunk."""
    if len(chunk) < 18 or (form == b"AIFC" and chunk[18:22] not in _AIFC_FLAT):
        return 0, 0
    channels, bits = int.from_bytes(chunk[:2], "big"), int.from_bytes(chunk[6:8], "big")
    exponent, mantissa = (
        int.from_bytes(chunk[8:10], "big"),
        int.from_bytes(chunk[10:18], "big"),
    )
    if not 0x3FFF <= exponent < 0x3FFF + 32:  # 1 Hz to 4 GHz
        return 0, 0
    rate = mantissa * 2.0 ** (exponent - 0x3FFF - 63)
    bytes_each = 1 if chunk[18:22] in (b"ulaw", b"alaw", b"ULAW", b"ALAW") else (bits + 7) // 8
    return round(rate * channels * bytes_each), channels * bytes_each


_AIFC_FLAT = (
    *(b"NONE", b"twos", b"sowt", b"raw ", b"in24", b"in32", b"fl32", b"FL32", b"fl64", b"FL64"),
    *(b"ulaw", b"alaw", b"ULAW", b"ALAW", b"23ni", b"42ni"),
)
_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}


def _au(reader: Reader, size: int, head: bytes) -> SampleChunk | None:
    begin, stated, encoding, rate, channels = (
        int.from_bytes(head[at : at + 4], "big") for at in range(4, 24, 4)
    )
    bytes_per_second = _AU_BYTES.get(encoding, 0) * rate * channels
    if not 24 <= begin <= size or not bytes_per_second:
        return None
    if stated in (0, 0xFFFFFFFF):
        end, stated_end = size, None
    elif begin + stated < size and _is_silent(reader, begin + stated, size):
        end = stated_end = begin + stated
    else:  # nothing can follow the samples
        end, stated_end = size, begin + stated
        if _is_streamed(stated):
            stated_end = None
    wrong = end != min(begin + stated, size)
    patches = {8: b"\xff\xff\xff\xff"} if wrong else {}
    return SampleChunk(begin, end, stated_end, bytes_per_second, patches, end < size)


def _caf(reader: Reader, size: int, head: bytes) -> SampleChunk | None:
    place, rate = 8, 0
    for _ in range(_MOST_CHUNKS):
        header = _at(reader, place, 12)
        if len(header) < 12:
            return None
        kind, stated = header[:4], int.from_bytes(header[4:], "big", signed=True)
        if kind == b"desc":
            rate = _caf_format(_at(reader, place + 12, 32))
        if kind == b"data":
            if not rate:
                return None  # compressed: its packet table may follow
            begin = place + 16  # an edit count comes first
            content = stated - 4
            follows = begin + content
            if content <= 0 or (follows + 12 <= size and not _is_name(_at(reader, follows, 4))):
                silent = content > 0 and _is_silent(reader, follows, size)
                end, stated_end = (follows if silent else size), (follows if content > 0 else None)
            else:
                end, stated_end = min(follows, size), None if _is_streamed(content) else follows
            wrong = content <= 0 or end > follows
            patches = {place + 4: (end - begin + 4).to_bytes(8, "big")} if wrong else {}
            return SampleChunk(begin, end, stated_end, rate, patches, cut=end < size)
        if stated < 0:
            return None
        place += 12 + stated
    return None


def _caf_format(chunk: bytes) -> int:
    if len(chunk) < 32:
        return 0
    rate, kind, _, block, per_packet = struct.unpack(">d4sIII", chunk[:24])
    if kind not in (b"lpcm", b"ulaw", b"alaw") or not block or per_packet != 1:
        return 0
    return round(rate * block) if 0 < rate < 2**32 else 0


_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable], ...] = (
    (
        lambda head: head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE",
        _wav,
    ),
    (lambda head: head[:4] == b"riff" and head[24:28] == b"wave", _w64),
    (lambda head: head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"), _aiff),
    (lambda head: head[:4] == b".snd", _au),
    (lambda head: head[:4] == b"caff", _caf),
)


# -- chunks ----------------------------------------------------------------------------------------


def _chunks(reader: Reader, place: int, size: int, order: str) -> Iterator[tuple[int, bytes, int]]:
    """Place, name and stated size of each chunk."""
    for _ in range(_MOST_CHUNKS):
        header = _at(reader, place, 8)
        if len(header) < 8:
            return
        stated = int.from_bytes(header[4:], order)
        yield place, header[:4], stated
        place += 8 + stated + stated % 2


def _true_end(
    reader: Reader, begin: int, stated: int, size: int, order: str
) -> tuple[int, int | None]:
    """Where the samples end, and where the header says they do (None if it says nothing)."""
    stated_end = begin + stated
    if stated <= 0:
        # nothing was recorded and other chunks follow, or the recorder never came back
        empty = begin + 8 <= size and _is_chunk_list(reader, begin, size, order)
        return (begin if empty else size), None
    if stated_end >= size:
        return size, (None if _is_streamed(stated) else stated_end)
    for end in range(stated_end, size + 1, 2**32):  # it may have wrapped
        padded = (end + stated % 2, end)  # some programs forget the padding of odd sizes
        if any(_is_chunk_list(reader, place, size, order) for place in padded):
            return end, stated_end
    if _is_silent(reader, stated_end, size) or _at(reader, stated_end, 8).startswith(_TAGS):
        return stated_end, stated_end
    return size, (None if _is_streamed(stated) else stated_end)


def _is_streamed(stated: int) -> bool:
    return any(low <= stated < high for low, high in _STREAMED)


def _is_chunk_list(reader: Reader, place: int, size: int, order: str) -> bool:
    """Whether chunks one after another fill the file from here on; zeros may follow them."""
    for at, kind, stated in _chunks(reader, place, size, order):
        if not _is_name(kind):
            return at > place and _is_silent(reader, at, size)
        if at + 8 + stated > size:
            return False
    return True


def _is_name(kind: bytes) -> bool:
    return len(kind) == 4 and all(32 <= byte < 127 for byte in kind)


def _without_zeros(reader: Reader, size: int) -> int:
    """Where zero bytes begin that fill the rest of the file."""
    end = size
    while end > 0:
        begin = max(0, end - _SCAN_BYTES)
        block = _at(reader, begin, end - begin)
        if left := len(block.rstrip(b"\0")):
            return begin + left
        end = begin
    return size


def _is_silent(reader: Reader, place: int, size: int) -> bool:
    """Whether only zero bytes are left, and at least one."""
    if place >= size:
        return False
    reader.seek(place)
    while place < size:
        block = reader.read(min(_SCAN_BYTES, size - place))
        if not block:
            return True
        if block.count(0) != len(block):
            return False
        place += len(block)
    return True
