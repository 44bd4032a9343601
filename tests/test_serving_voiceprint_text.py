"""Voiceprints that clients keep as text, and what becomes of texts that are none."""

import base64
import struct
import zlib

import numpy as np
import pytest

from raydiar.errors import VoiceprintTextError
from raydiar.serving.results.voiceprint_text import MAX_TEXT, VERSION, decode, encode

EMBEDDING = "0f" * 32
OTHER = "f0" * 32
VECTOR = np.random.default_rng(0).standard_normal(192).astype(np.float32)
TEXT = encode(VECTOR, EMBEDDING, "unweighted")


def sealed(content: bytes) -> str:
    """A text with the right checksum, whatever it says."""
    return base64.b64encode(content + struct.pack("<I", zlib.crc32(content))).decode()


def content(text: str = TEXT) -> bytearray:
    return bytearray(base64.b64decode(text)[:-4])


def refused(text: str, match: str) -> None:
    with pytest.raises(VoiceprintTextError, match=match):
        decode(text, EMBEDDING, "unweighted")


@pytest.mark.parametrize("dimension", [1, 192, 512, 4096])
def test_a_voiceprint_comes_back_bit_by_bit(dimension):
    vector = np.random.default_rng(1).standard_normal(dimension).astype(np.float32)
    text = encode(vector, EMBEDDING, "weighted, ü")
    assert text.isascii()
    assert len(text) <= MAX_TEXT
    back = decode(f" {text}\n", EMBEDDING, "weighted, ü")
    assert back.dtype == np.float32
    assert back.tobytes() == vector.tobytes()
    back += 1  # a copy of the caller's own


def test_the_format_stays_what_clients_have_kept():
    assert encode(np.array([1, -2], np.float32), EMBEDDING, "x") == (
        "UkRWUAEPDw8PDw8PDw8PDw8PDw8PAXgCAAAAgD8AAADAtvjafQ=="
    )


def test_another_embedding_or_mode_is_not_compared():
    for embedding, mode in [(OTHER, "unweighted"), (EMBEDDING, "weighted")]:
        with pytest.raises(VoiceprintTextError, match="another embedding"):
            decode(TEXT, embedding, mode)


@pytest.mark.parametrize("text", ["", "!", "a", "ü" * 8, "AAAA", "UkRW", "UkRWUA==", "{}", "null"])
def test_garbage_is_told_from_voiceprints(text):
    refused(text, r"not base64|not a voiceprint")


def test_a_voiceprint_of_another_version():
    changed = content()
    changed[4] = VERSION + 1
    refused(sealed(bytes(changed)), f"version {VERSION + 1}")


def test_every_cut_and_every_flipped_bit_is_noticed():
    data = base64.b64decode(TEXT)
    for length in range(len(data)):
        refused(base64.b64encode(data[:length]).decode(), "voiceprint|base64")
    for bit in range(8 * 40):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        refused(base64.b64encode(flipped).decode(), "voiceprint|base64")
    refused(TEXT[:-4], "damaged")


@pytest.mark.parametrize("length", range(5, 30))
def test_what_is_too_short_but_sealed_is_refused(length):
    refused(sealed(bytes(content()[:length])), "damaged|another embedding")


def test_a_dimension_that_is_not_that_of_the_vector():
    refused(sealed(bytes(content()) + b"\0\0\0\0"), "damaged")
    refused(sealed(bytes(content()[:-1])), "damaged")
    refused(sealed(bytes(content()[:-768])), "damaged")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_no_voice(bad):
    vector = VECTOR.copy()
    vector[3] = bad
    smuggled = content()
    smuggled[-192 * 4 :] = vector.tobytes()
    refused(sealed(bytes(smuggled)), "NaN or infinity")
    with pytest.raises(VoiceprintTextError, match="NaN"):
        encode(vector, EMBEDDING, "unweighted")


def test_silence_is_no_voice():
    smuggled = content()
    smuggled[-192 * 4 :] = bytes(192 * 4)
    refused(sealed(bytes(smuggled)), "zeros")
    for vector in (np.zeros(192), np.zeros(0), np.ones((2, 3)), np.full(3, 1e300)):
        with pytest.raises(VoiceprintTextError):
            encode(vector, EMBEDDING, "unweighted")


def test_an_endless_text_is_not_decoded():
    refused("A" * (MAX_TEXT + 1), "longer than")
