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
DECODERS = [
    kind.format
    for kind in (
        AvifImagePlugin.AvifImageFile,
        GifImagePlugin.GifImageFile,
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
    )
    if kind.format is not None
]
# What may be sent, and how the library calls it. MPO is what some cameras make: a JPEG with more behind it.
FORMATS = {
    "image/jpeg": ("JPEG", "MPO"),
    "image/png": ("PNG",),
    "image/webp": ("WEBP",),
    "image/avif": ("AVIF",),
    "image/gif": ("GIF",),
}
# What is made, by the ending of its name: the library's name for it, and how it is written at a quality from 0 to 100.
MADE = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "avif": "AVIF"}
TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "avif": "image/avif"}
# As what each is kept. A still GIF is a PNG with fewer colours.
KEPT_AS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/avif": "avif", "image/gif": "png"}

# Pixels of the longer side of what is kept.
LONGEST = 4_096
# The modes that are resized as they are; the others have to become one of them before.
MIXABLE = ("RGB", "RGBA", "L", "CMYK")
# Pixels of the longer side of a placeholder: some 150 bytes.
TINY = 16
KEPT, SERVED, SKETCHED = 90, 80, 30

# Pictures that are worked on at a time, by each process. Of those that were sent one: it takes hundreds of megabytes.
SENT_AT_A_TIME, KEPT_AT_A_TIME = 1, 2
MOST_WAITING = 100

# What browsers might take for a page, were they told that it is one. No picture has it; what hides one in a picture has.
_MARKUP = re.compile(rb"<\s*(?:!doctype|html|script|iframe|svg|\?php)[\s>]", re.IGNORECASE)

# The library's own limit is a warning, and an error at twice as much: ours comes before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


class Unusable(Exception):
    """What was sent is no picture that can be used; says why."""


@dataclass(frozen=True, slots=True)
class Developed:
    """A picture as it is kept: its bytes and their file ending, pixels, and a tiny one of it as a data URL."""

    content: bytes
    extension: str
    width: int
    height: int
    placeholder: str


class Pictures:
    """Works on pictures in threads of its own, a few at a time. What cannot wait any more is told to come again."""

    def __init__(self, most_pixels: int) -> None:
        self._most_pixels = most_pixels
        self._for_sent: ThreadPoolExecutor | None = None
        self._for_kept: ThreadPoolExecutor | None = None
        # How many are worked on or wait for it, and what became of the others by now.
        self.waiting = 0
        self.outcomes = {"developed": 0, "refused": 0, "resized": 0}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have the threads."""
        self._for_sent = ThreadPoolExecutor(SENT_AT_A_TIME, "pictures sent")
        self._for_kept = ThreadPoolExecutor(KEPT_AT_A_TIME, "pictures kept")
        try:
            yield
        finally:
            for threads in (self._for_sent, self._for_kept):
                # Nobody waits for it any more.
                threads.shutdown(wait=False, cancel_futures=True)

    async def develop(self, content: bytes, content_type: str) -> Developed:
        """What was sent as this type, to be kept; raises Unusable."""
        try:
            made = await self._apart(self._for_sent, partial(developed, content, content_type, self._most_pixels))
        except Unusable:
            self.outcomes["refused"] += 1
            raise
        self.outcomes["developed"] += 1
        return made

    async def resize(self, content: bytes, width: int, extension: str) -> bytes:
        """A kept picture at a width and in a format."""
        made = await self._apart(self._for_kept, partial(resized, content, width, extension))
        self.outcomes["resized"] += 1
        return made

    async def _apart(self, threads: ThreadPoolExecutor | None, work: Callable[[], T]) -> T:
        if self.waiting >= MOST_WAITING:
            raise Unavailable("Too many pictures are being worked on. Try again in a second.")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        finally:
            self.waiting -= 1


def developed(content: bytes, content_type: str, most_pixels: int) -> Developed:
    """The picture as it is kept; raises Unusable."""
    if _MARKUP.search(content):
        raise Unusable("has markup or a script in it. Save it anew as a picture.")
    image = _opened(content, content_type)
    width, height = image.size
    if width * height > most_pixels:
        raise Unusable(f"has {width:,} x {height:,} pixels; at most {most_pixels:,} in all are taken. Make it smaller.")
    try:
        return _remade(image, content_type)
    except Unusable:
        raise
    except Exception as error:
        # Decoders report broken files by exceptions of any kind, the search for a second frame included.
        raise Unusable("is broken: it cannot be decoded to its end. Save it anew.") from error


def _remade(image: Image.Image, content_type: str) -> Developed:
    # What has a second frame: to count them all would read a file of a million frames to its end.
    if content_type != "image/jpeg" and getattr(image, "is_animated", False):
        raise Unusable("is an animation. Send a still picture.")
    # A JPEG can be decoded at a half or less of its size, which is far cheaper.
    image.draft("RGB", (LONGEST, LONGEST))
    orientation = _orientation(image)
    # Smaller first, where pixels are such that can be mixed: all that follows takes less memory then.
    small = _fitted(image, LONGEST) if image.mode in MIXABLE else image
    kept = _fitted(_upright(small, orientation), LONGEST)
    extension = KEPT_AS[content_type]
    return Developed(_encoded(kept, extension, KEPT), extension, *kept.size, _placeholder(kept))


def resized(content: bytes, width: int, extension: str) -> bytes:
    """A kept picture at a width, which is at most its own, and in a format."""
    with Image.open(BytesIO(content), formats=DECODERS) as image:
        image.draft("RGB", (width, width * image.height // image.width + 1))
        height = max(1, round(image.height * width / image.width))
        return _encoded(_plain(image).resize((width, height), Image.Resampling.LANCZOS), extension, SERVED)


def _opened(content: bytes, content_type: str) -> Image.Image:
    names = FORMATS[content_type]
    try:
        image = Image.open(BytesIO(content), formats=DECODERS)
    except Exception as error:
        raise Unusable(f"is no picture of the type {content_type}.") from error
    if image.format not in names:
        raise Unusable(f"is {image.format}, not {content_type} as was said when it was announced.")
    return image


# How a picture is turned, by the orientation of its EXIF data; any other value is none.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> object:
    # Some formats have their EXIF data behind the pixels.
    image.load()
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        # The pixels are good whatever is wrong with the EXIF data.
        return None


def _upright(image: Image.Image, orientation: object) -> Image.Image:
    """Turned as the camera was held, in the colours of the web, with nothing besides its pixels."""
    turn = next((turn for value, turn in _TURNS.items() if value == orientation), None)
    return _plain(_of_the_web(image if turn is None else image.transpose(turn)))


def _of_the_web(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        own, srgb = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, own, srgb, outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError):
        # A profile that says nothing is that of the web.
        return image


def _plain(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Of sixteen bits the upper eight.
        image = image.point(lambda value: value / 256).convert("L")
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    mode = "RGBA" if has_alpha else "RGB"
    plain = image if image.mode == mode else image.convert(mode)
    plain.info = {}
    return plain


def _fitted(image: Image.Image, longest: int) -> Image.Image:
    # Never larger than it was, and never narrower than a pixel.
    scale = min(1.0, longest / max(image.size))
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image if size == image.size else image.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def _placeholder(image: Image.Image) -> str:
    tiny = _encoded(_fitted(image, TINY), "webp", SKETCHED)
    return f"data:image/webp;base64,{b64encode(tiny).decode()}"


def _encoded(image: Image.Image, extension: str, quality: int) -> bytes:
    out = BytesIO()
    if extension == "jpg" and image.mode == "RGBA":
        # It knows no transparency: what is behind it is white.
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image.save(out, MADE[extension], **_OPTIONS[extension](quality))
    return out.getvalue()


_OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "jpg": lambda quality: {"quality": quality, "progressive": True, "optimize": True},
    "png": lambda _: {},
    "webp": lambda quality: {"quality": quality, "method": 4},
    # As good at a lower number, and slow unless told otherwise.
    "avif": lambda quality: {"quality": quality - 20, "speed": 8},
}
