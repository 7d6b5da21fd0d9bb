"""Encodings of text files: detected in the whole file, and converted to UTF-8 chunk by chunk. Synchronous, for a thread."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

CHUNK_BYTES = 65_536
# The start of a file from which the byte order of UTF-16 follows.
SAMPLE_BYTES = 4_096
UTF_8, UTF_8_WITH_BOM, UTF_16, WINDOWS_1252 = "UTF-8", "UTF-8 with BOM", "UTF-16", "Windows-1252"
UNKNOWN_ENCODING_MESSAGE = "is neither UTF-8, UTF-16 nor Windows-1252 text: save it as “CSV UTF-8”."
NO_TEXT_MESSAGE = "is not a text file: save it as CSV, .xlsx or JSON Lines."
# Bytes that are no text in UTF-8 are from Windows-1252 if they are so many times as many as the characters that are.
MIN_FOREIGN_RATIO = 10
# Bytes that Windows-1252 has no character for, or one that is rare, and that Japanese encodings begin characters with.
MAX_SHARE_OF_RARE_BYTES = 0.05
_RARE_BYTES = b"\x81\x82\x83\x8d\x8f\x90\x9d"
# In Western languages letters beyond ASCII stand alone or in pairs; in other scripts they make up whole words.
MAX_SHARE_OF_LONG_RUNS = 0.5

_NOT_ASCII = re.compile(rb"[\x80-\xff]+")
_LONG_RUN_BYTES = 3
# As the error handler `surrogateescape` decodes bytes that are not UTF-8.
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_UTF_32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_UTF_16_CODECS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class UnknownEncodingError(ValueError):
    """The file is not text in a known encoding. The message says so."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """An encoding by its name. `codec`: of Python. `mark_bytes`: of the byte order mark."""

    name: str
    codec: str = "utf-8"
    mark_bytes: int = 0

    @property
    def is_utf_8(self) -> bool:
        """Whether nothing has to be converted."""
        return self.codec == "utf-8"


def detect_encoding(file: BinaryIO) -> Encoding:
    """The encoding of a file. Raises UnknownEncodingError."""
    file.seek(0)
    sample = file.read(SAMPLE_BYTES)
    if sample.startswith(_UTF_32_MARKS):
        raise UnknownEncodingError(UNKNOWN_ENCODING_MESSAGE)
    if codec := _UTF_16_CODECS.get(sample[:2]):
        return Encoding(UTF_16, codec, mark_bytes=2)
    if sample.startswith(codecs.BOM_UTF8):
        return Encoding(UTF_8_WITH_BOM)
    if b"\0" in sample and (codec := _detect_byte_order(sample)):
        return Encoding(UTF_16, codec)
    return Encoding(WINDOWS_1252, "cp1252") if _is_windows_1252(file) else Encoding(UTF_8)


def _detect_byte_order(sample: bytes) -> str | None:
    """The codec of UTF-16 without a mark: of ASCII text every other byte is NUL. None if it is something else."""
    high_first, low_first = sample[0::2].count(0), sample[1::2].count(0)
    if max(high_first, low_first) * 3 < len(sample) // 2:
        return None
    if min(high_first, low_first) * 20 > max(high_first, low_first):
        raise UnknownEncodingError(NO_TEXT_MESSAGE)
    return "utf-16-be" if high_first > low_first else "utf-16-le"


def _is_windows_1252(file: BinaryIO) -> bool:
    """Whether the bytes beyond ASCII are not UTF-8. Where most of them are, the others are errors of their rows."""
    valid = invalid = long_runs = rare = total = 0
    for chunk in _read_chunks(file):
        if chunk.isascii():
            continue
        text = chunk.decode("utf-8", "surrogateescape")
        escaped = len(_ESCAPED_BYTE.findall(text))
        invalid += escaped
        valid += sum(map(len, re.findall("[^\0-\x7f\udc80-\udcff]+", text)))
        if escaped:
            runs = [len(run) for run in _NOT_ASCII.findall(chunk)]
            total += sum(runs)
            rare += len(chunk) - len(chunk.translate(None, _RARE_BYTES))
            long_runs += sum(run for run in runs if run >= _LONG_RUN_BYTES)
    if invalid <= valid * MIN_FOREIGN_RATIO:
        return False
    if long_runs > total * MAX_SHARE_OF_LONG_RUNS or rare > total * MAX_SHARE_OF_RARE_BYTES:
        raise UnknownEncodingError(UNKNOWN_ENCODING_MESSAGE)
    return True


def _read_chunks(file: BinaryIO) -> Iterator[bytes]:
    """The file in chunks that end after an ASCII character, where there is one: no character is cut."""
    file.seek(0)
    rest = b""
    while chunk := file.read(CHUNK_BYTES):
        chunk = rest + chunk
        end = len(chunk)
        while end and chunk[end - 1] >= 0x80 and len(chunk) - end < 4:
            end -= 1
        rest = chunk[end:]
        yield chunk[:end]
    if rest:
        yield rest


def convert_to_utf_8(file: BinaryIO, target: BinaryIO, encoding: Encoding) -> None:
    """Write the file as UTF-8. What is no text in its encoding is no text in UTF-8 either, so that its row is rejected."""
    file.seek(encoding.mark_bytes)
    decoder = codecs.getincrementaldecoder(encoding.codec)("surrogateescape" if encoding.codec == "cp1252" else "surrogatepass")
    while chunk := file.read(CHUNK_BYTES):
        target.write(decoder.decode(chunk).encode("utf-8", "surrogatepass"))
    if decoder.getstate()[0]:
        # Half of a character.
        target.write(b"\xff")
