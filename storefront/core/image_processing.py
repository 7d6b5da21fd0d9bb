"""Image processing: detects the format by content, decodes within limits, and re-encodes without metadata.

An upload is never served as it is: it is decoded and encoded again, upright, in sRGB, without EXIF data such as location and
camera. This removes scripts in polyglot files, and coordinates of the photographer's home.
"""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, TypeVar

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

T = TypeVar("T")

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
    """Processes images in thread pools of its own. Beyond MAX_WAITING_IMAGES, Unavailable is raised (load shedding)."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._upload_threads: ThreadPoolExecutor | None = None
        self._resize_threads: ThreadPoolExecutor | None = None
        # Images in progress or queued, and counts of outcomes, for metrics.
        self.waiting = 0
        self.outcomes = {"developed": 0, "refused": 0, "resized": 0}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the thread pools inside the context."""
        self._upload_threads = ThreadPoolExecutor(MAX_CONCURRENT_UPLOADS, "image-uploads")
        self._resize_threads = ThreadPoolExecutor(MAX_CONCURRENT_RESIZES, "image-resizes")
        try:
            yield
        finally:
            for threads in (self._upload_threads, self._resize_threads):
                # No caller waits for results any more.
                threads.shutdown(wait=False, cancel_futures=True)

    async def process_upload(self, content: bytes, content_type: str) -> ProcessedImage:
        """Process an upload that was declared as `content_type`. Raises UnusableImageError and Unavailable."""
        try:
            processed = await self._run_in_thread(
                self._upload_threads, partial(process_image, content, content_type, self._max_pixels)
            )
        except UnusableImageError:
            self.outcomes["refused"] += 1
            raise
        self.outcomes["developed"] += 1
        return processed

    async def resize_stored(self, content: bytes, width: int, extension: str) -> bytes:
        """A stored image at a width, in the format of a file extension. Raises Unavailable."""
        resized_content = await self._run_in_thread(self._resize_threads, partial(resize_image, content, width, extension))
        self.outcomes["resized"] += 1
        return resized_content

    async def _run_in_thread(self, threads: ThreadPoolExecutor | None, work: Callable[[], T]) -> T:
        if self.waiting >= MAX_WAITING_IMAGES:
            raise Unavailable("Too many images are being processed. Try again in a second.")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        finally:
            self.waiting -= 1


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
        _encode_image(stored_image, extension, STORED_QUALITY), extension, *stored_image.size, _render_placeholder(stored_image)
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


def _render_placeholder(image: Image.Image) -> str:
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
