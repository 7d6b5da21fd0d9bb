"""Pictures: what somebody sent is told by its content, decoded within bounds, and made anew without what does not belong to it.

What was sent is never served: it is decoded and encoded again, upright, in the colours of the web, without place, time, camera
or anything else that was in the file. So a file that is also a script, or a picture of somebody's home with its coordinates,
ends here.
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

# The library knows what has been imported; all of its decoders together are forty, each with bugs of its own.
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
# What may be sent, and how the library calls it. MPO is what some cameras make: a JPEG with more behind it.
UPLOAD_FORMATS = {
    "image/jpeg": ("JPEG", "MPO"),
    "image/png": ("PNG",),
    "image/webp": ("WEBP",),
    "image/avif": ("AVIF",),
    "image/gif": ("GIF",),
}
# What is made, by the ending of its name: the library's name for it, and how it is written at a quality from 0 to 100.
ENCODER_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "avif": "AVIF"}
MEDIA_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "avif": "image/avif"}
# As what each is kept. A still GIF is a PNG with fewer colours.
STORED_EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/avif": "avif", "image/gif": "png"}

# Pixels of the longer side of what is kept.
MAX_SIDE_PIXELS = 4_096
# The modes that are resized as they are; the others have to become one of them before.
RESIZABLE_MODES = ("RGB", "RGBA", "L", "CMYK")
# Pixels of the longer side of a placeholder: some 150 bytes.
PLACEHOLDER_SIDE_PIXELS = 16
STORED_QUALITY, SERVED_QUALITY, PLACEHOLDER_QUALITY = 90, 80, 30

# Pictures that are worked on at a time, by each process. Of those that were sent one: it takes hundreds of megabytes.
MAX_CONCURRENT_UPLOADS, MAX_CONCURRENT_RESIZES = 1, 2
MAX_WAITING_IMAGES = 100

# What browsers might take for a page, were they told that it is one. No picture has it; what hides one in a picture has.
_MARKUP_PATTERN = re.compile(rb"<\s*(?:!doctype|html|script|iframe|svg|\?php)[\s>]", re.IGNORECASE)

# The library's own limit is a warning, and an error at twice as much: ours comes before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


class UnusableImageError(Exception):
    """What was sent is no picture that can be used; says why."""


@dataclass(frozen=True, slots=True)
class ProcessedImage:
    """A picture as it is kept: its bytes and their file ending, pixels, and a tiny one of it as a data URL."""

    content: bytes
    extension: str
    width: int
    height: int
    placeholder: str


class ImageProcessor:
    """Works on pictures in threads of its own, a few at a time. What cannot wait any more is told to come again."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._upload_threads: ThreadPoolExecutor | None = None
        self._resize_threads: ThreadPoolExecutor | None = None
        # How many are worked on or wait for it, and what became of the others by now.
        self.waiting = 0
        self.outcomes = {"developed": 0, "refused": 0, "resized": 0}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have the threads."""
        self._upload_threads = ThreadPoolExecutor(MAX_CONCURRENT_UPLOADS, "pictures sent")
        self._resize_threads = ThreadPoolExecutor(MAX_CONCURRENT_RESIZES, "pictures kept")
        try:
            yield
        finally:
            for threads in (self._upload_threads, self._resize_threads):
                # Nobody waits for it any more.
                threads.shutdown(wait=False, cancel_futures=True)

    async def process_upload(self, content: bytes, content_type: str) -> ProcessedImage:
        """What was sent as this type, to be kept; raises Unusable."""
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
        """A kept picture at a width and in a format."""
        resized_content = await self._run_in_thread(self._resize_threads, partial(resize_image, content, width, extension))
        self.outcomes["resized"] += 1
        return resized_content

    async def _run_in_thread(self, threads: ThreadPoolExecutor | None, work: Callable[[], T]) -> T:
        if self.waiting >= MAX_WAITING_IMAGES:
            raise Unavailable("Too many pictures are being worked on. Try again in a second.")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        finally:
            self.waiting -= 1


def process_image(content: bytes, content_type: str, max_pixels: int) -> ProcessedImage:
    """The picture as it is kept; raises Unusable."""
    if _MARKUP_PATTERN.search(content):
        raise UnusableImageError("has markup or a script in it. Save it anew as a picture.")
    image = _open_image(content, content_type)
    width, height = image.size
    if width * height > max_pixels:
        raise UnusableImageError(f"has {width:,} x {height:,} pixels; at most {max_pixels:,} in all are taken. Make it smaller.")
    try:
        return _reencode_image(image, content_type)
    except UnusableImageError:
        raise
    except Exception as error:
        # Decoders report broken files by exceptions of any kind, the search for a second frame included.
        raise UnusableImageError("is broken: it cannot be decoded to its end. Save it anew.") from error


def _reencode_image(image: Image.Image, content_type: str) -> ProcessedImage:
    # What has a second frame: to count them all would read a file of a million frames to its end.
    if content_type != "image/jpeg" and getattr(image, "is_animated", False):
        raise UnusableImageError("is an animation. Send a still picture.")
    # A JPEG can be decoded at a half or less of its size, which is far cheaper.
    image.draft("RGB", (MAX_SIDE_PIXELS, MAX_SIDE_PIXELS))
    orientation = _read_orientation(image)
    # Smaller first, where pixels are such that can be mixed: all that follows takes less memory then.
    reduced = _shrink_to_fit(image, MAX_SIDE_PIXELS) if image.mode in RESIZABLE_MODES else image
    stored_image = _shrink_to_fit(_rotate_upright(reduced, orientation), MAX_SIDE_PIXELS)
    extension = STORED_EXTENSIONS[content_type]
    return ProcessedImage(
        _encode_image(stored_image, extension, STORED_QUALITY), extension, *stored_image.size, _render_placeholder(stored_image)
    )


def resize_image(content: bytes, width: int, extension: str) -> bytes:
    """A kept picture at a width, which is at most its own, and in a format."""
    with Image.open(BytesIO(content), formats=DECODER_FORMATS) as image:
        image.draft("RGB", (width, width * image.height // image.width + 1))
        height = max(1, round(image.height * width / image.width))
        return _encode_image(_convert_to_rgb(image).resize((width, height), Image.Resampling.LANCZOS), extension, SERVED_QUALITY)


def _open_image(content: bytes, content_type: str) -> Image.Image:
    allowed_formats = UPLOAD_FORMATS[content_type]
    try:
        image = Image.open(BytesIO(content), formats=DECODER_FORMATS)
    except Exception as error:
        raise UnusableImageError(f"is no picture of the type {content_type}.") from error
    if image.format not in allowed_formats:
        raise UnusableImageError(f"is {image.format}, not {content_type} as was said when it was announced.")
    return image


# How a picture is turned, by the orientation of its EXIF data; any other value is none.
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
    # Some formats have their EXIF data behind the pixels.
    image.load()
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        # The pixels are good whatever is wrong with the EXIF data.
        return None


def _rotate_upright(image: Image.Image, orientation: object) -> Image.Image:
    """Turned as the camera was held, in the colours of the web, with nothing besides its pixels."""
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
        # A profile that says nothing is that of the web.
        return image


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Of sixteen bits the upper eight.
        image = image.point(lambda value: value / 256).convert("L")
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    mode = "RGBA" if has_alpha else "RGB"
    converted = image if image.mode == mode else image.convert(mode)
    converted.info = {}
    return converted


def _shrink_to_fit(image: Image.Image, max_side: int) -> Image.Image:
    # Never larger than it was, and never narrower than a pixel.
    scale = min(1.0, max_side / max(image.size))
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image if size == image.size else image.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def _render_placeholder(image: Image.Image) -> str:
    thumbnail = _encode_image(_shrink_to_fit(image, PLACEHOLDER_SIDE_PIXELS), "webp", PLACEHOLDER_QUALITY)
    return f"data:image/webp;base64,{b64encode(thumbnail).decode()}"


def _encode_image(image: Image.Image, extension: str, quality: int) -> bytes:
    buffer = BytesIO()
    if extension == "jpg" and image.mode == "RGBA":
        # It knows no transparency: what is behind it is white.
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image.save(buffer, ENCODER_FORMATS[extension], **_ENCODER_OPTIONS[extension](quality))
    return buffer.getvalue()


_ENCODER_OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "jpg": lambda quality: {"quality": quality, "progressive": True, "optimize": True},
    "png": lambda _: {},
    "webp": lambda quality: {"quality": quality, "method": 4},
    # As good at a lower number, and slow unless told otherwise.
    "avif": lambda quality: {"quality": quality - 20, "speed": 8},
}
