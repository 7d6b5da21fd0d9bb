"""Pictures are told by their content, and made anew without what does not belong to them."""

import asyncio
from base64 import b64decode
from io import BytesIO
from random import Random

import pytest
from PIL import Image, ImageCms, ImageOps

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

MOST = 50_000_000
KINDS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/avif": "AVIF", "image/gif": "GIF"}


def near(found: object, wanted: tuple[int, ...]) -> bool:
    assert isinstance(found, tuple)
    return all(abs(one - other) < 30 for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("content_type", UPLOAD_FORMATS)
def test_a_picture_of_each_type_is_kept(content_type: str) -> None:
    made = process_image(picture(KINDS[content_type]), content_type, MOST)
    kept = opened(made.content)
    assert (made.width, made.height) == kept.size == (600, 400)
    assert kept.format == ("PNG" if content_type == "image/gif" else KINDS[content_type])
    colours = kept.convert("RGB")
    assert near(colours.getpixel((20, 200)), (255, 0, 0)) and near(colours.getpixel((580, 200)), (0, 0, 255))


@pytest.mark.parametrize("content_type", UPLOAD_FORMATS)
@pytest.mark.parametrize("announced", UPLOAD_FORMATS)
def test_only_what_was_announced_is_taken(content_type: str, announced: str) -> None:
    if announced != content_type:
        with pytest.raises(UnusableImageError, match=f"not {announced}"):
            process_image(picture(KINDS[content_type]), announced, MOST)


def test_where_and_how_it_was_taken_is_not_kept_and_up_is_up() -> None:
    sent = located()
    assert opened(sent).getexif().get_ifd(0x8825)
    made = process_image(sent, "image/jpeg", MOST)
    kept = opened(made.content)
    assert (made.width, made.height) == kept.size == (400, 600)
    assert near(kept.getpixel((200, 20)), (255, 0, 0)) and near(kept.getpixel((200, 580)), (0, 0, 255))
    for small in (made.content, resize_image(made.content, 200, "jpg"), resize_image(made.content, 200, "webp")):
        assert dict(opened(small).getexif()) == {} and b"A camera" not in small and b"Exif" not in small


def test_colours_become_those_of_the_web() -> None:
    plain = picture("PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    kept = opened(process_image(plain, "image/png", MOST).content)
    assert "icc_profile" not in kept.info and near(kept.getpixel((20, 200)), (255, 0, 0))
    broken = picture("PNG", icc_profile=b"no profile at all")
    assert near(opened(process_image(broken, "image/png", MOST).content).getpixel((20, 200)), (255, 0, 0))


def test_print_colours_and_greys_and_sixteen_bits_are_understood() -> None:
    for mode, kind in (("CMYK", "JPEG"), ("L", "JPEG"), ("1", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("I;16", "PNG")):
        out = BytesIO()
        Image.new(mode, (40, 30)).save(out, kind)
        made = process_image(out.getvalue(), f"image/{kind.lower()}", MOST)
        assert opened(made.content).mode in ("RGB", "RGBA") and opened(resize_image(made.content, 20, "webp")).size == (20, 15)
    deep = BytesIO()
    Image.new("I;16", (40, 30), 32_768).save(deep, "PNG")
    assert near(opened(process_image(deep.getvalue(), "image/png", MOST).content).getpixel((1, 1)), (128, 128, 128))


def test_what_can_be_seen_through_is_white_where_the_format_knows_no_such_thing() -> None:
    out = BytesIO()
    Image.new("RGBA", (60, 60), (255, 0, 0, 0)).save(out, "PNG")
    made = process_image(out.getvalue(), "image/png", MOST)
    assert opened(made.content).mode == "RGBA" and opened(resize_image(made.content, 32, "webp")).mode == "RGBA"
    assert near(opened(resize_image(made.content, 32, "jpg")).getpixel((5, 5)), (255, 255, 255))


@pytest.mark.parametrize("extension", ENCODER_FORMATS)
def test_each_format_is_made_at_a_width(extension: str) -> None:
    small = opened(resize_image(process_image(picture(), "image/jpeg", MOST).content, 150, extension))
    assert small.size == (150, 100) and small.format == ENCODER_FORMATS[extension]


def test_what_is_very_large_is_kept_smaller() -> None:
    made = process_image(picture(size=(2 * MAX_SIDE_PIXELS, 10), quality=50), "image/jpeg", MOST)
    assert (made.width, made.height) == opened(made.content).size == (MAX_SIDE_PIXELS, 5)


def test_a_line_stays_a_line() -> None:
    made = process_image(picture("PNG", size=(3_000, 1)), "image/png", MOST)
    assert opened(resize_image(made.content, 32, "webp")).size == (32, 1)
    assert opened(b64decode(made.placeholder.partition(",")[2])).size == (16, 1)


def test_a_placeholder_is_a_tiny_picture() -> None:
    made = process_image(picture(), "image/jpeg", MOST)
    assert made.placeholder.startswith("data:image/webp;base64,") and len(made.placeholder) < 400
    tiny = opened(b64decode(made.placeholder.partition(",")[2]))
    assert tiny.size == (16, 11) and near(tiny.convert("RGB").getpixel((1, 5)), (255, 0, 0))


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
def test_what_is_no_picture_is_refused(name: str) -> None:
    with pytest.raises(UnusableImageError):
        process_image(NO_PICTURES[name], "image/png", MOST)


def test_a_jpeg_that_is_cut_off_is_refused() -> None:
    with pytest.raises(UnusableImageError, match="broken"):
        process_image(picture(quality=95)[:-500], "image/jpeg", MOST)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(UnusableImageError, match="50,000 x 50,000 pixels; at most 50,000,000"):
        process_image(huge_png(), "image/png", MOST)
    with pytest.raises(UnusableImageError, match="600 x 400 pixels"):
        process_image(picture(), "image/jpeg", 239_999)
    assert process_image(picture(), "image/jpeg", 240_000)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_what_moves_is_refused(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    out = BytesIO()
    frames[0].save(out, kind, save_all=True, append_images=frames[1:])
    with pytest.raises(UnusableImageError, match="animation"):
        process_image(out.getvalue(), f"image/{kind.lower()}", MOST)


def test_a_picture_of_two_lenses_is_the_first_one() -> None:
    lenses = [Image.new("RGB", (60, 40), colour) for colour in ("red", "blue")]
    out = BytesIO()
    lenses[0].save(out, "MPO", save_all=True, append_images=lenses[1:])
    kept = opened(process_image(out.getvalue(), "image/jpeg", MOST).content)
    assert kept.format == "JPEG" and near(kept.getpixel((5, 5)), (255, 0, 0))


async def test_not_everything_is_worked_on_at_a_time() -> None:
    pictures, content = ImageProcessor(MOST), process_image(picture(size=(20, 20)), "image/jpeg", MOST).content
    async with pictures.running():
        works = [asyncio.ensure_future(pictures.resize_stored(content, 10, "jpg")) for _ in range(MAX_WAITING_IMAGES + 3)]
        results = await asyncio.gather(*works, return_exceptions=True)
    assert [type(result) for result in results if not isinstance(result, bytes)] == [Unavailable] * 3


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


def outcome_of(content: bytes, content_type: str) -> str:
    """What becomes of a file; whatever else than Unusable is raised fails the test."""
    try:
        made = process_image(content, content_type, MOST)
    except UnusableImageError:
        return "refused"
    assert opened(made.content).size == (made.width, made.height)
    return "kept"


# The library warns of what is odd and goes on.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SOURCES)
def test_broken_file_is_kept_or_refused(name: str) -> None:
    content_type, whole = SOURCES[name]
    random = Random(name)
    outcomes = {outcome_of(break_bytes(whole, random), content_type) for _ in range(40)}
    assert "refused" in outcomes


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SOURCES)
def test_file_cut_anywhere_is_kept_or_refused(name: str) -> None:
    content_type, whole = SOURCES[name]
    for length in range(0, len(whole), max(1, len(whole) // 30)):
        outcome_of(whole[:length], content_type)


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_wrong_orientation_is_none(orientation: int) -> None:
    made = process_image(noise("JPEG", exif=turned(orientation)), "image/jpeg", MOST)
    assert (made.width, made.height) == (60, 40)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_broken_exif_data_costs_no_picture(kind: str) -> None:
    made = process_image(noise(kind, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff"), f"image/{kind.lower()}", MOST)
    assert (made.width, made.height) == (60, 40)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_each_orientation_turns_as_the_library_does(orientation: int) -> None:
    sent = picture("PNG", exif=turned(orientation))
    made, wanted = opened(process_image(sent, "image/png", MOST).content), ImageOps.exif_transpose(opened(sent))
    assert made.tobytes() == wanted.tobytes() and made.size == wanted.size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_exif_data_is_not_kept(kind: str) -> None:
    made = process_image(noise(kind, exif=turned()), f"image/{kind.lower()}", MOST)
    assert (made.width, made.height) == (40, 60) and dict(opened(made.content).getexif()) == {}


NO_SIZES = {
    "too many in a GIF": ("image/gif", sized_gif(65_535, 65_535)),
    "too many in a PNG": ("image/png", huge_png(2**31 - 1)),
    "no pixels in a PNG": ("image/png", huge_png(0)),
}


@pytest.mark.parametrize("name", NO_SIZES)
def test_impossible_size_is_refused(name: str) -> None:
    content_type, content = NO_SIZES[name]
    with pytest.raises(UnusableImageError):
        process_image(content, content_type, MOST)
