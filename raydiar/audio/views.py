"""A file as FFmpeg should see it, where it is not quite what it should be."""

from raydiar.storage import Reader


class View(Reader):
    """A file shown with some of its bytes changed, or only a part of it.

    Parameters
    ----------
    reader : Reader
    begin, end : int, bytes
        Part of the file; all of it by default.
    patches : mapping of int to bytes
        What stands at a place of the file instead.
    """

    def __init__(
        self,
        reader: Reader,
        begin: int = 0,
        end: int | None = None,
        patches: dict[int, bytes] | None = None,
    ):
        super().__init__(reader, reader.label, reader.remote)
        self._begin = begin
        self._end = reader.size() if end is None else end
        self._patches = patches or {}
        self._place = begin

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._end - self._place)
        self._file.seek(self._place)
        data = self._file.read(left if size < 0 else min(size, left))
        first, self._place = self._place, self._place + len(data)
        for place, content in self._patches.items():
            if first < place + len(content) and place < self._place:
                data = bytearray(data)
                for number, value in enumerate(content, place - first):
                    if 0 <= number < len(data):
                        data[number] = value
        return bytes(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        origin = (self._begin, self._place, self._end)[whence]
        self._place = max(self._begin, origin + offset)
        return self._place - self._begin

    def tell(self) -> int:
        return self._place - self._begin

    @property
    def failure(self) -> Exception | None:
        return self._file.failure

    @failure.setter
    def failure(self, failure: Exception | None) -> None:
        """A failure is the file's, which remembers it."""
