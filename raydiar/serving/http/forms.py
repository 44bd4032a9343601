"""A file within an HTML form (multipart/form-data), handed on while it comes in.

The form parsers of web frameworks write the file to the disk first, and know no limit on it.
"""

from collections.abc import AsyncIterator, Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

FILE = "file"
_MAX_FIELDS_BYTES = 2**16


class FileForm:
    """A form with one file, in the field `file`, and short fields beside it.

    Parameters
    ----------
    boundary : bytes

    Attributes
    ----------
    fields : dict of str
        Of the parts that have come in.
    filename : str or None
    """

    def __init__(self, boundary: bytes):
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._has_file = self._finished = False
        self._file_blocks: list[bytes] = []
        self._num_bytes = 0  # of fields
        self._name, self._value = "", bytearray()
        self._header, self._headers = (bytearray(), bytearray()), {}
        callbacks: dict[str, Callable] = {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise _refused("its boundary is too long") from error

    async def file_chunks(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Bytes of the file in a form's body; at their end all fields are known.

        Raises
        ------
        HTTPException
            400 if the body is no such form, or has no file.
        """
        async for chunk in chunks:
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise _refused("it is damaged") from error
            for block in self._file_blocks:
                yield block
            self._file_blocks.clear()
        if not self._finished:
            raise _refused("it ends too early")
        if not self._has_file:
            raise _refused(f"it has no file in a field named {FILE!r}")

    def _begin_part(self) -> None:
        self._headers = {}
        self._header = (bytearray(), bytearray())
        self._value = bytearray()

    def _end_header(self) -> None:
        name, value = (bytes(part) for part in self._header)
        self._headers[name.lower()] = value
        self._header = (bytearray(), bytearray())

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = options.get(b"name", b"").decode(errors="replace")
        if self._name == FILE:
            if self._has_file:
                raise _refused("it has several files")
            self._has_file = True
            self.filename = options.get(b"filename", b"").decode(errors="replace")
        elif b"filename" in options:
            raise _refused(f"its file is not in the field {FILE!r}")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE:
            self._file_blocks.append(data[start:end])
            return
        self._num_bytes += end - start
        if self._num_bytes > _MAX_FIELDS_BYTES:
            raise HTTPException(413, f"The form's fields have more than {_MAX_FIELDS_BYTES} bytes.")
        self._value += data[start:end]

    def _end_part(self) -> None:
        if self._name != FILE:
            self.fields[self._name] = self._value.decode(errors="replace")

    def _end(self) -> None:
        self._finished = True


def form_of(content_type: str | None) -> FileForm | None:
    """The form that a Content-Type header announces; None for another body.

    Raises
    ------
    HTTPException
        400 for a form without a boundary.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return None
    if not options.get(b"boundary"):
        raise _refused("its Content-Type names no boundary")
    return FileForm(options[b"boundary"])


def _refused(reason: str) -> HTTPException:
    return HTTPException(400, f"The body cannot be read as a form: {reason}.")
