"""Image processing: detects the format by content, decodes within limits, and re-encodes without metadata.

An upload is never served as it is: it is decoded and encoded again, upright, in sRGB, without EXIF data such as location and
camera. This removes scripts in polyglot files, and coordinates of the photographer's home.
"""

import asyncio
import re
import sys
from asyncio.subprocess import PIPE, Process
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import orjson
from PIL import (
    AvifImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageCms,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from storefront.core.errors import Unavailable

# Pillow has about forty decoders, each with bugs of its own: only those imported here are used.
DECODER_FORMATS = [
    image_file.format
    for image_file in (
        AvifImagePlugin.AvifImageFile,
        GifImagePlugin.GifImageFile,
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
    )
    if image_file.format is not None
]
# Accepted media types of uploads, with Pillow's format names. MPO comes from some cameras: a JPEG with further images appended.
UPLOAD_FORMATS = {
    "image/jpeg": ("JPEG", "MPO"),
    "image/png": ("PNG",),
    "image/webp": ("WEBP",),
    "image/avif": ("AVIF",),
    "image/gif": ("GIF",),
}
# Output formats by file extension: Pillow's format names, and media types.
ENCODER_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "avif": "AVIF"}
MEDIA_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "avif": "image/avif"}
# The stored format of each upload format. GIF becomes PNG, which is lossless, too.
STORED_EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/avif": "avif", "image/gif": "png"}

# Maximum longer side of a stored image.
MAX_SIDE_PIXELS = 4_096
# Modes that can be resized directly; others are converted first.
RESIZABLE_MODES = ("RGB", "RGBA", "L", "CMYK")
# Longer side of a placeholder, which has about 150 bytes.
PLACEHOLDER_SIDE_PIXELS = 16
STORED_QUALITY, SERVED_QUALITY, PLACEHOLDER_QUALITY = 90, 80, 30

# Images that a process works on concurrently. Only one upload: it takes hundreds of megabytes.
MAX_CONCURRENT_UPLOADS, MAX_CONCURRENT_RESIZES = 1, 2
MAX_WAITING_IMAGES = 100
# Seconds that an image may take, and after which an idle process ends; and bytes in the buffers of its pipes.
MAX_PROCESSING_SECONDS, MAX_IDLE_SECONDS, MAX_BUFFERED_BYTES = 60.0, 10.0, 262_144

# Markup that a browser could interpret as HTML (polyglot files). Genuine images do not contain it.
_MARKUP_PATTERN = re.compile(rb"<\s*(?:!doctype|html|script|iframe|svg|\?php)[\s>]", re.IGNORECASE)

# Pillow's own limit only warns, and fails at twice as much. Ours is checked before decoding.
Image.MAX_IMAGE_PIXELS = None


class UnusableImageError(Exception):
    """An upload is not a usable image. The message says why."""


@dataclass(frozen=True, slots=True)
class ProcessedImage:
    """An image as stored: content, file extension, size in pixels, and a tiny placeholder as a data URL."""

    content: bytes
    extension: str
    width: int
    height: int
    placeholder: str


class ImageProcessor:
    """Processes images in processes of its own. Beyond MAX_WAITING_IMAGES, Unavailable is raised (load shedding)."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._upload_workers = _WorkerPool(MAX_CONCURRENT_UPLOADS)
        self._resize_workers = _WorkerPool(MAX_CONCURRENT_RESIZES)
        # Images in progress or queued, and counts of outcomes, for metrics.
        self.waiting = 0
        self.outcomes = {"processed": 0, "rejected": 0, "resized": 0}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """End the processes after the context."""
        try:
            yield
        finally:
            for workers in (self._upload_workers, self._resize_workers):
                await workers.close()

    async def process_upload(self, content: bytes, content_type: str) -> ProcessedImage:
        """Process an upload that was declared as `content_type`. Raises UnusableImageError and Unavailable."""
        try:
            task = {"contentType": content_type, "maxPixels": self._max_pixels}
            result, output = await self._run(self._upload_workers, task, content)
        except UnusableImageError:
            self.outcomes["rejected"] += 1
            raise
        self.outcomes["processed"] += 1
        return ProcessedImage(output, **result)

    async def resize_stored(self, content: bytes, width: int, extension: str) -> bytes:
        """A stored image at a width, in the format of a file extension. Raises Unavailable."""
        try:
            _, output = await self._run(self._resize_workers, {"width": width, "extension": extension}, content)
        except UnusableImageError as error:
            # The stored image is readable: its process died.
            raise Unavailable("The image could not be resized. Try again in a minute.") from error
        self.outcomes["resized"] += 1
        return output

    async def _run(self, workers: "_WorkerPool", task: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        if self.waiting >= MAX_WAITING_IMAGES:
            raise Unavailable("Too many images are being processed. Try again in a second.")
        self.waiting += 1
        try:
            return await workers.run(task, content)
        finally:
            self.waiting -= 1


class _WorkerPool:
    """Processes of `image_worker`, each with one task at a time. One that is idle for a while ends, which frees its memory."""

    def __init__(self, size: int) -> None:
        self._slots = asyncio.Semaphore(size)
        self._idle: list[tuple[Process, asyncio.TimerHandle]] = []

    async def run(self, task: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        """The result of a task, and its bytes. Raises UnusableImageError, also if a decoder crashes or takes too long."""
        async with self._slots:
            process = await self._take()
            try:
                async with asyncio.timeout(MAX_PROCESSING_SECONDS):
                    result, output = await _exchange(process, task, content)
            except (EOFError, OSError, TimeoutError):
                await _stop(process)
                raise UnusableImageError("takes too much memory or time to be decoded. Export it again.") from None
            except BaseException:
                await _stop(process)
                raise
            self._idle.append((process, asyncio.get_running_loop().call_later(MAX_IDLE_SECONDS, self._retire, process)))
        if problem := result.get("problem"):
            raise UnusableImageError(problem)
        return result, output

    async def close(self) -> None:
        """End the idle processes. Those at work end with their tasks."""
        for process, timer in self._idle:
            timer.cancel()
            await _stop(process)
        self._idle.clear()

    async def _take(self) -> Process:
        while self._idle:
            process, timer = self._idle.pop()
            timer.cancel()
            if process.returncode is None:
                return process
        program = (sys.executable, "-P", "-m", "storefront.core.image_worker")
        # In a session of its own: Ctrl-C in a terminal ends the server, and with it the input of this process.
        return await asyncio.create_subprocess_exec(
            *program, stdin=PIPE, stdout=PIPE, limit=MAX_BUFFERED_BYTES, start_new_session=True
        )

    def _retire(self, process: Process) -> None:
        self._idle = [entry for entry in self._idle if entry[0] is not process]
        if process.stdin is not None:
            # It ends at the end of its input.
            process.stdin.close()


async def _exchange(process: Process, task: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    assert process.stdin is not None  # noqa: S101 - a pipe
    assert process.stdout is not None  # noqa: S101 - a pipe
    process.stdin.write(orjson.dumps({**task, "size": len(content)}) + b"\n")
    for start in range(0, len(content), MAX_BUFFERED_BYTES):
        process.stdin.write(content[start : start + MAX_BUFFERED_BYTES])
        await process.stdin.drain()
    result: dict[str, Any] = orjson.loads(await process.stdout.readuntil())
    return result, await process.stdout.readexactly(result.pop("size"))


async def _stop(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def detect_content_type(content: bytes) -> str | None:
    """The media type of an image by its first bytes; None if it is not one of UPLOAD_FORMATS."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    if content[4:12] in (b"ftypavif", b"ftypavis", b"ftypmif1"):
        return "image/avif"
    return next((content_type for start, content_type in _SIGNATURES.items() if content.startswith(start)), None)


_SIGNATURES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}


def process_image(content: bytes, content_type: str, max_pixels: int) -> ProcessedImage:
    """Decode, check and re-encode an upload; raises UnusableImageError."""
    if _MARKUP_PATTERN.search(content):
        raise UnusableImageError("has markup or a script in it. Export it again as an image.")
    image = _open_image(content, content_type)
    width, height = image.size
    if width * height > max_pixels:
        raise UnusableImageError(
            f"has {width:,} x {height:,} pixels; at most {max_pixels:,} pixels in total are allowed. Make it smaller."
        )
    try:
        return _reencode_image(image, content_type)
    except UnusableImageError:
        raise
    except Exception as error:
        # Decoders raise exceptions of any type for broken files, also while they look for a second frame.
        raise UnusableImageError("is broken: it cannot be decoded to its end. Export it again.") from error


def _reencode_image(image: Image.Image, content_type: str) -> ProcessedImage:
    # Look for a second frame only: counting all would read a file of a million frames to its end.
    if content_type != "image/jpeg" and getattr(image, "is_animated", False):
        raise UnusableImageError("is an animation. Send a still picture.")
    # A JPEG can be decoded at a reduced scale (1/2 and less), which is far cheaper.
    image.draft("RGB", (MAX_SIDE_PIXELS, MAX_SIDE_PIXELS))
    orientation = _read_orientation(image)
    # Shrink first where the mode can be resized: the following steps take less memory.
    reduced = _shrink_to_fit(image, MAX_SIDE_PIXELS) if image.mode in RESIZABLE_MODES else image
    stored_image = _shrink_to_fit(_rotate_upright(reduced, orientation), MAX_SIDE_PIXELS)
    extension = STORED_EXTENSIONS[content_type]
    return ProcessedImage(
        _encode_image(stored_image, extension, STORED_QUALITY), extension, *stored_image.size, render_placeholder(stored_image)
    )


def resize_image(content: bytes, width: int, extension: str) -> bytes:
    """A stored image at a width of at most its own, in the format of a file extension."""
    with Image.open(BytesIO(content), formats=DECODER_FORMATS) as image:
        image.draft("RGB", (width, width * image.height // image.width + 1))
        height = max(1, round(image.height * width / image.width))
        return _encode_image(_convert_to_rgb(image).resize((width, height), Image.Resampling.LANCZOS), extension, SERVED_QUALITY)


def _open_image(content: bytes, content_type: str) -> Image.Image:
    allowed_formats = UPLOAD_FORMATS[content_type]
    try:
        image = Image.open(BytesIO(content), formats=DECODER_FORMATS)
    except Exception as error:
        raise UnusableImageError(f"is not an image of the type {content_type}.") from error
    if image.format not in allowed_formats:
        raise UnusableImageError(f"is {image.format}, not {content_type} as declared when the upload was created.")
    return image


# Transpositions by EXIF orientation; other values mean none.
_TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _read_orientation(image: Image.Image) -> object:
    # Some formats have their EXIF data after the pixels.
    image.load()
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        # Broken EXIF data does not make the pixels unusable.
        return None


def _rotate_upright(image: Image.Image, orientation: object) -> Image.Image:
    """The image upright, in sRGB, without metadata."""
    transposition = next(
        (transposition for value, transposition in _TRANSPOSE_BY_ORIENTATION.items() if value == orientation), None
    )
    return _convert_to_rgb(_convert_to_srgb(image if transposition is None else image.transpose(transposition)))


def _convert_to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        source_profile, srgb_profile = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, source_profile, srgb_profile, outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError):
        # An unreadable profile counts as sRGB.
        return image


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # 16 bits per pixel are reduced to the upper 8.
        image = image.point(lambda value: value / 256).convert("L")
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    mode = "RGBA" if has_alpha else "RGB"
    converted = image if image.mode == mode else image.convert(mode)
    converted.info = {}
    return converted


def _shrink_to_fit(image: Image.Image, max_side: int) -> Image.Image:
    # Never enlarge, and keep at least one pixel per side.
    scale = min(1.0, max_side / max(image.size))
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image if size == image.size else image.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def render_placeholder(image: Image.Image) -> str:
    """A tiny version of an image, as a data URL."""
    thumbnail = _encode_image(_shrink_to_fit(image, PLACEHOLDER_SIDE_PIXELS), "webp", PLACEHOLDER_QUALITY)
    return f"data:image/webp;base64,{b64encode(thumbnail).decode()}"


def _encode_image(image: Image.Image, extension: str, quality: int) -> bytes:
    buffer = BytesIO()
    if extension == "jpg" and image.mode == "RGBA":
        # JPEG has no transparency: use a white background.
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image.save(buffer, ENCODER_FORMATS[extension], **_ENCODER_OPTIONS[extension](quality))
    return buffer.getvalue()


_ENCODER_OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "jpg": lambda quality: {"quality": quality, "progressive": True, "optimize": True},
    "png": lambda _: {},
    "webp": lambda quality: {"quality": quality, "method": 4},
    # AVIF has the same quality at a lower number, and is slow at the default speed.
    "avif": lambda quality: {"quality": quality - 20, "speed": 8},
}
