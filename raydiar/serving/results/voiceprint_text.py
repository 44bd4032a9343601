"""Voiceprints as text that clients keep and hand back: base64, versioned, and checked.

    "RDVP" | version u8 | first 16 bytes of the embedding's SHA-256 | length u8, mode in UTF-8
    | dimension u16 | float32 × dimension | CRC-32 u32          (little-endian throughout)

The checksum finds texts that were cut or mistyped. It is no signature: a client may send any
vector it likes, as it may send any recording.
"""

import base64
import binascii
import struct
import zlib

import numpy as np

from raydiar.errors import VoiceprintTextError

VERSION = 1
MAX_TEXT = 2**16  # characters; a voiceprint of 4,096 dimensions has a third of that
_MAGIC = b"RDVP"
_PREFIX_BYTES = 16


def encode(vector: np.ndarray, embedding: str, embedding_mode: str) -> str:
    """Voiceprint as text.

    Parameters
    ----------
    vector : (dimension,) float32
    embedding : str
        SHA-256 of the embedding's weights, hexadecimal.
    embedding_mode : str
        With `embedding`, what makes voiceprints comparable.

    Raises
    ------
    VoiceprintTextError
        If the vector holds NaN or infinity, or only zeros.
    """
    _check_vector(vector)
    mode = embedding_mode.encode()
    content = b"".join(
        [
            _MAGIC,
            bytes([VERSION]),
            _prefix(embedding),
            bytes([len(mode)]),
            mode,
            struct.pack("<H", len(vector)),
            np.asarray(vector, "<f4").tobytes(),
        ]
    )
    return base64.b64encode(content + struct.pack("<I", zlib.crc32(content))).decode()


def decode(text: str, embedding: str, embedding_mode: str) -> np.ndarray:
    """Vector of a voiceprint that `encode` wrote for this embedding.

    Returns
    -------
    vector : (dimension,) float32

    Raises
    ------
    VoiceprintTextError
        If the text is no voiceprint, was damaged, is of another version or another embedding, or
        holds no usable vector.
    """
    content = _content(text)
    try:
        mode_end = 22 + content[21]
        found = (content[5:21], content[22:mode_end].decode())
        (dimension,) = struct.unpack_from("<H", content, mode_end)
        vector = np.frombuffer(content, "<f4", offset=mode_end + 2).astype(np.float32)
    except (IndexError, ValueError, struct.error) as error:
        raise _damaged() from error
    if len(vector) != dimension:
        raise _damaged()
    if found != (_prefix(embedding), embedding_mode):
        raise VoiceprintTextError(
            "The voiceprint was made with another embedding model "
            f"({found[0].hex()[:12]}…, {found[1]}) than this server's ({embedding[:12]}…, "
            f"{embedding_mode}): they cannot be compared. Make it again here."
        )
    _check_vector(vector)
    return vector


def _content(text: str) -> bytes:
    """Bytes of a text without their checksum, which is right."""
    if len(text) > MAX_TEXT:
        raise VoiceprintTextError(f"The voiceprint is longer than {MAX_TEXT} characters.")
    try:
        data = base64.b64decode(text.strip().encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise VoiceprintTextError("The voiceprint is not base64 text.") from error
    if not data.startswith(_MAGIC) or len(data) < len(_MAGIC) + 1:
        raise VoiceprintTextError(
            "The text is not a voiceprint of raydiar. Those of other services cannot be read."
        )
    version = data[len(_MAGIC)]
    if version != VERSION:
        raise VoiceprintTextError(
            f"The voiceprint has format version {version}, and this server reads {VERSION}. "
            "Make it again here."
        )
    content, checksum = data[:-4], data[-4:]
    if struct.pack("<I", zlib.crc32(content)) != checksum:
        raise _damaged()
    return content


def _damaged() -> VoiceprintTextError:
    return VoiceprintTextError("The voiceprint is damaged. Send the text as it was received.")


def _prefix(embedding: str) -> bytes:
    return bytes.fromhex(embedding)[:_PREFIX_BYTES]


def _check_vector(vector: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        vector = np.asarray(vector, np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
        raise VoiceprintTextError(
            "The voiceprint's vector holds NaN or infinity, or nothing but zeros."
        )
