"""Image processing: detection by content, limits, re-encoding without metadata."""

import asyncio
from base64 import b64decode
from io import BytesIO
from random import Random

import psutil
import pytest
from PIL import Image, ImageCms, ImageOps

from storefront.core import image_processing
from storefront.core.errors import Unavailable
from storefront.core.image_processing import (
    ENCODER_FORMATS,
    MAX_SIDE_PIXELS,
    MAX_WAITING_IMAGES,
    UPLOAD_FORMATS,
    ImageProcessor,
    UnusableImageError,
    process_image,
    resize_image,
)
from tests.pictures import break_bytes, frames, huge_png, located, noise, opened, picture, scripted_png, sized_gif, turned

MAX_PIXELS = 50_000_000
KINDS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/avif": "AVIF", "image/gif": "GIF"}


def is_near(found: object, wanted: tuple[int, ...]) -> bool:
    assert isinstance(found, tuple)
    return all(abs(one - other) < 30 for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("content_type", UPLOAD_FORMATS)
def test_each_upload_type_is_processed(content_type: str) -> None:
    processed = process_image(picture(KINDS[content_type]), content_type, MAX_PIXELS)
    image = opened(processed.content)
    assert (processed.width, processed.height) == image.size == (600, 400)
    assert image.format == ("PNG" if content_type == "image/gif" else KINDS[content_type])
    colours = image.convert("RGB")
    assert is_near(colours.getpixel((20, 200)), (255, 0, 0)) and is_near(colours.getpixel((580, 200)), (0, 0, 255))


@pytest.mark.parametrize("content_type", UPLOAD_FORMATS)
@pytest.mark.parametrize("announced", UPLOAD_FORMATS)
def test_content_must_match_declared_type(content_type: str, announced: str) -> None:
    if announced != content_type:
        with pytest.raises(UnusableImageError, match=f"not {announced}"):
            process_image(picture(KINDS[content_type]), announced, MAX_PIXELS)


def test_metadata_is_stripped_and_orientation_applied() -> None:
    sent = located()
    assert opened(sent).getexif().get_ifd(0x8825)
    processed = process_image(sent, "image/jpeg", MAX_PIXELS)
    image = opened(processed.content)
    assert (processed.width, processed.height) == image.size == (400, 600)
    assert is_near(image.getpixel((200, 20)), (255, 0, 0)) and is_near(image.getpixel((200, 580)), (0, 0, 255))
    for small in (processed.content, resize_image(processed.content, 200, "jpg"), resize_image(processed.content, 200, "webp")):
        assert dict(opened(small).getexif()) == {} and b"A camera" not in small and b"Exif" not in small


def test_colours_are_converted_to_srgb() -> None:
    plain = picture("PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    image = opened(process_image(plain, "image/png", MAX_PIXELS).content)
    assert "icc_profile" not in image.info and is_near(image.getpixel((20, 200)), (255, 0, 0))
    broken = picture("PNG", icc_profile=b"no profile at all")
    assert is_near(opened(process_image(broken, "image/png", MAX_PIXELS).content).getpixel((20, 200)), (255, 0, 0))


def test_cmyk_grey_and_16_bit_are_converted() -> None:
    for mode, kind in (("CMYK", "JPEG"), ("L", "JPEG"), ("1", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("I;16", "PNG")):
        out = BytesIO()
        Image.new(mode, (40, 30)).save(out, kind)
        processed = process_image(out.getvalue(), f"image/{kind.lower()}", MAX_PIXELS)
        assert opened(processed.content).mode in ("RGB", "RGBA") and opened(resize_image(processed.content, 20, "webp")).size == (
            20,
            15,
        )
    deep = BytesIO()
    Image.new("I;16", (40, 30), 32_768).save(deep, "PNG")
    assert is_near(opened(process_image(deep.getvalue(), "image/png", MAX_PIXELS).content).getpixel((1, 1)), (128, 128, 128))


def test_jpeg_has_white_behind_transparency() -> None:
    out = BytesIO()
    Image.new("RGBA", (60, 60), (255, 0, 0, 0)).save(out, "PNG")
    processed = process_image(out.getvalue(), "image/png", MAX_PIXELS)
    assert opened(processed.content).mode == "RGBA" and opened(resize_image(processed.content, 32, "webp")).mode == "RGBA"
    assert is_near(opened(resize_image(processed.content, 32, "jpg")).getpixel((5, 5)), (255, 255, 255))


@pytest.mark.parametrize("extension", ENCODER_FORMATS)
def test_each_output_format_is_resized(extension: str) -> None:
    small = opened(resize_image(process_image(picture(), "image/jpeg", MAX_PIXELS).content, 150, extension))
    assert small.size == (150, 100) and small.format == ENCODER_FORMATS[extension]


def test_large_image_is_shrunk() -> None:
    processed = process_image(picture(size=(2 * MAX_SIDE_PIXELS, 10), quality=50), "image/jpeg", MAX_PIXELS)
    assert (processed.width, processed.height) == opened(processed.content).size == (MAX_SIDE_PIXELS, 5)


def test_narrow_image_keeps_one_pixel() -> None:
    processed = process_image(picture("PNG", size=(3_000, 1)), "image/png", MAX_PIXELS)
    assert opened(resize_image(processed.content, 32, "webp")).size == (32, 1)
    assert opened(b64decode(processed.placeholder.partition(",")[2])).size == (16, 1)


def test_placeholder_is_a_tiny_image() -> None:
    processed = process_image(picture(), "image/jpeg", MAX_PIXELS)
    assert processed.placeholder.startswith("data:image/webp;base64,") and len(processed.placeholder) < 400
    tiny = opened(b64decode(processed.placeholder.partition(",")[2]))
    assert tiny.size == (16, 11) and is_near(tiny.convert("RGB").getpixel((1, 5)), (255, 0, 0))


NO_PICTURES = {
    "a page": b"<!DOCTYPE html><html><script>alert(1)</script></html>",
    "a script": b"alert(document.cookie)",
    "a drawing": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "nothing": b"",
    "half a picture": picture("PNG")[:-200],
    "a PNG with a script in it": scripted_png(),
    "a PNG with a page behind it": picture("PNG") + b"<html><script>alert(1)</script>",
    "a header alone": picture("PNG")[:33],
    "a bitmap": picture("BMP"),
    "a TIFF": picture("TIFF"),
}


@pytest.mark.parametrize("name", NO_PICTURES)
def test_non_image_is_rejected(name: str) -> None:
    with pytest.raises(UnusableImageError):
        process_image(NO_PICTURES[name], "image/png", MAX_PIXELS)


def test_truncated_jpeg_is_rejected() -> None:
    with pytest.raises(UnusableImageError, match="broken"):
        process_image(picture(quality=95)[:-500], "image/jpeg", MAX_PIXELS)


def test_pixel_limit_is_checked_before_decoding() -> None:
    with pytest.raises(UnusableImageError, match="50,000 x 50,000 pixels; at most 50,000,000"):
        process_image(huge_png(), "image/png", MAX_PIXELS)
    with pytest.raises(UnusableImageError, match="600 x 400 pixels"):
        process_image(picture(), "image/jpeg", 239_999)
    assert process_image(picture(), "image/jpeg", 240_000)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animation_is_rejected(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    out = BytesIO()
    frames[0].save(out, kind, save_all=True, append_images=frames[1:])
    with pytest.raises(UnusableImageError, match="animation"):
        process_image(out.getvalue(), f"image/{kind.lower()}", MAX_PIXELS)


def test_mpo_is_processed_as_its_first_image() -> None:
    lenses = [Image.new("RGB", (60, 40), colour) for colour in ("red", "blue")]
    out = BytesIO()
    lenses[0].save(out, "MPO", save_all=True, append_images=lenses[1:])
    image = opened(process_image(out.getvalue(), "image/jpeg", MAX_PIXELS).content)
    assert image.format == "JPEG" and is_near(image.getpixel((5, 5)), (255, 0, 0))


async def test_concurrency_and_queue_are_limited() -> None:
    pictures, content = ImageProcessor(MAX_PIXELS), process_image(picture(size=(20, 20)), "image/jpeg", MAX_PIXELS).content
    async with pictures.running():
        works = [asyncio.ensure_future(pictures.resize_stored(content, 10, "jpg")) for _ in range(MAX_WAITING_IMAGES + 3)]
        results = await asyncio.gather(*works, return_exceptions=True)
    assert [type(result) for result in results if not isinstance(result, bytes)] == [Unavailable] * 3


async def test_images_are_processed_in_processes_that_may_die(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_processing, "MAX_IDLE_SECONDS", 0.05)
    images, content = ImageProcessor(50_000_000), picture(size=(5_000, 5_000))
    async with images.running():
        work = asyncio.ensure_future(images.process_upload(content, "image/jpeg"))
        [worker] = await wait_for_workers(1)
        worker.kill()
        with pytest.raises(UnusableImageError, match="too much memory or time"):
            await work
        with pytest.raises(UnusableImageError, match="is not an image"):
            await images.process_upload(b"x", "image/jpeg")
        assert (await images.process_upload(picture(size=(20, 20)), "image/jpeg")).width == 20
        # An idle one ends, and its memory is free.
        await wait_for_workers(0)


async def wait_for_workers(count: int) -> list[psutil.Process]:
    async with asyncio.timeout(60):
        while len(workers := [one for one in psutil.Process().children() if is_worker(one)]) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return workers


def is_worker(process: psutil.Process) -> bool:
    try:
        return "storefront.core.image_worker" in process.cmdline()
    except psutil.Error:
        return False


# ------------------------------------------------------------------------------------------------ broken files

SOURCES = {
    "a GIF": ("image/gif", noise("GIF", "P")),
    "an animated GIF": ("image/gif", frames("GIF")),
    "a PNG": ("image/png", noise("PNG", exif=turned())),
    "a PNG with a palette": ("image/png", noise("PNG", "P", transparency=3)),
    "a PNG of 16 bits": ("image/png", noise("PNG", "I;16")),
    "an animated PNG": ("image/png", frames("PNG")),
    "a WebP": ("image/webp", noise("WEBP", exif=turned())),
    "a lossless WebP": ("image/webp", noise("WEBP", "RGBA", lossless=True)),
    "an animated WebP": ("image/webp", frames("WEBP")),
    "an AVIF": ("image/avif", noise("AVIF", exif=turned())),
    "an AVIF sequence": ("image/avif", frames("AVIF")),
    "a JPEG": ("image/jpeg", noise("JPEG", exif=turned())),
    "a progressive JPEG": ("image/jpeg", noise("JPEG", progressive=True)),
    "a JPEG for print": ("image/jpeg", noise("JPEG", "CMYK")),
    "an MPO": ("image/jpeg", frames("MPO")),
}


def process_or_reject(content: bytes, content_type: str) -> str:
    """The outcome for a file; any exception but UnusableImageError fails the test."""
    try:
        processed = process_image(content, content_type, MAX_PIXELS)
    except UnusableImageError:
        return "refused"
    assert opened(processed.content).size == (processed.width, processed.height)
    return "kept"


# Pillow warns of irregularities and continues.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SOURCES)
def test_corrupt_file_is_processed_or_rejected(name: str) -> None:
    content_type, whole = SOURCES[name]
    random = Random(name)
    outcomes = {process_or_reject(break_bytes(whole, random), content_type) for _ in range(40)}
    assert "refused" in outcomes


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SOURCES)
def test_truncated_file_is_processed_or_rejected(name: str) -> None:
    content_type, whole = SOURCES[name]
    for length in range(0, len(whole), max(1, len(whole) // 30)):
        process_or_reject(whole[:length], content_type)


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_invalid_orientation_is_ignored(orientation: int) -> None:
    processed = process_image(noise("JPEG", exif=turned(orientation)), "image/jpeg", MAX_PIXELS)
    assert (processed.width, processed.height) == (60, 40)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_broken_exif_data_is_ignored(kind: str) -> None:
    processed = process_image(noise(kind, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff"), f"image/{kind.lower()}", MAX_PIXELS)
    assert (processed.width, processed.height) == (60, 40)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_each_orientation_matches_pillow(orientation: int) -> None:
    sent = picture("PNG", exif=turned(orientation))
    processed, wanted = opened(process_image(sent, "image/png", MAX_PIXELS).content), ImageOps.exif_transpose(opened(sent))
    assert processed.tobytes() == wanted.tobytes() and processed.size == wanted.size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_exif_data_is_stripped(kind: str) -> None:
    processed = process_image(noise(kind, exif=turned()), f"image/{kind.lower()}", MAX_PIXELS)
    assert (processed.width, processed.height) == (40, 60) and dict(opened(processed.content).getexif()) == {}


NO_SIZES = {
    "too many in a GIF": ("image/gif", sized_gif(65_535, 65_535)),
    "too many in a PNG": ("image/png", huge_png(2**31 - 1)),
    "no pixels in a PNG": ("image/png", huge_png(0)),
}


@pytest.mark.parametrize("name", NO_SIZES)
def test_impossible_size_is_rejected(name: str) -> None:
    content_type, content = NO_SIZES[name]
    with pytest.raises(UnusableImageError):
        process_image(content, content_type, MAX_PIXELS)
