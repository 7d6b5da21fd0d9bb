"""Draws the pictures of the demo data: one shape for each kind of product, in a few colours. Pure and deterministic.

Many images share one picture: drawing one for each product would take minutes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO

from PIL import Image, ImageColor, ImageDraw

from storefront.core.image_processing import render_placeholder
from storefront.demo.word_lists import SWATCHES
from storefront.queries.images import SHARED_PREFIX

WIDTH_PIXELS = 640
EXTENSION = "webp"
# Drawn at twice the size, which smooths the edges.
_SCALE = 2
_COLOURS = ("Moss", "Ochre", "Petrol")
_BACKGROUND = "#ece7dd"

Points = Sequence[tuple[float, float]]


class _Canvas:
    """A square with coordinates from 0 to 100, in one colour and shades of it."""

    def __init__(self, colour: str, size: int) -> None:
        self.image = Image.new("RGB", (size, size), _BACKGROUND)
        self._draw, self._unit, self._rgb = ImageDraw.Draw(self.image), size / 100, ImageColor.getrgb(colour)

    def polygon(self, points: Points, shade: float = 1) -> None:
        self._draw.polygon([(x * self._unit, y * self._unit) for x, y in points], self._mix(shade))

    def box(self, left: float, top: float, right: float, bottom: float, radius: float = 0, shade: float = 1) -> None:
        self._draw.rounded_rectangle(self._scale(left, top, right, bottom), radius * self._unit, self._mix(shade))

    def ellipse(self, left: float, top: float, right: float, bottom: float, shade: float = 1) -> None:
        self._draw.ellipse(self._scale(left, top, right, bottom), self._mix(shade))

    def ring(self, left: float, top: float, right: float, bottom: float, width: float, shade: float = 1) -> None:
        self._draw.ellipse(self._scale(left, top, right, bottom), None, self._mix(shade), round(width * self._unit))

    def _scale(self, *edges: float) -> tuple[float, float, float, float]:
        left, top, right, bottom = (edge * self._unit for edge in edges)
        return left, top, right, bottom

    def _mix(self, shade: float) -> tuple[int, int, int]:
        red, green, blue = (min(255, round(part * shade)) for part in self._rgb[:3])
        return red, green, blue


def _draw_garment(canvas: _Canvas) -> None:
    canvas.polygon([(38, 22), (62, 22), (82, 36), (75, 50), (67, 45), (67, 82), (33, 82), (33, 45), (25, 50), (18, 36)])
    canvas.ellipse(41, 16, 59, 31, 0.75)
    canvas.box(49, 40, 51, 82, shade=0.8)


def _draw_vase(canvas: _Canvas) -> None:
    canvas.box(42, 18, 58, 46, 3)
    canvas.ellipse(28, 36, 72, 84)
    canvas.ellipse(40, 15, 60, 22, 0.7)
    canvas.box(30, 56, 70, 61, shade=0.85)


def _draw_mug(canvas: _Canvas) -> None:
    canvas.ring(56, 38, 84, 68, 5)
    canvas.box(24, 26, 66, 80, 7)
    canvas.ellipse(24, 21, 66, 33, 0.7)


def _draw_chair(canvas: _Canvas) -> None:
    for left in (27, 68):
        canvas.box(left, 56, left + 5, 88, 1, 0.7)
    canvas.box(30, 16, 70, 56, 9)
    canvas.box(22, 52, 78, 66, 6, 0.85)


def _draw_shoe(canvas: _Canvas) -> None:
    canvas.polygon([(22, 34), (46, 34), (54, 50), (80, 58), (84, 70), (20, 70)])
    canvas.box(18, 68, 86, 76, 4, 0.6)
    for left in (48, 54, 60):
        canvas.box(left, 47, left + 3, 56, 1, 1.25)


def _draw_lamp(canvas: _Canvas) -> None:
    canvas.polygon([(38, 18), (62, 18), (76, 50), (24, 50)])
    canvas.box(48, 50, 52, 80, shade=0.6)
    canvas.ellipse(34, 76, 66, 86, 0.6)


def _draw_bag(canvas: _Canvas) -> None:
    canvas.ring(36, 16, 64, 52, 4, 0.7)
    canvas.polygon([(24, 36), (76, 36), (82, 84), (18, 84)])
    canvas.box(34, 52, 66, 74, 3, 0.85)


def _draw_bottle(canvas: _Canvas) -> None:
    canvas.box(43, 14, 57, 28, 2, 0.6)
    canvas.box(32, 26, 68, 86, 9)
    canvas.box(32, 48, 68, 70, shade=1.3)


def _draw_book(canvas: _Canvas) -> None:
    canvas.box(28, 20, 74, 82, 3, 0.7)
    canvas.box(26, 18, 70, 80, 3)
    canvas.box(32, 18, 35, 80, shade=0.75)
    canvas.box(42, 32, 64, 40, 1, 1.3)


def _draw_blocks(canvas: _Canvas) -> None:
    canvas.box(18, 52, 48, 82, 3)
    canvas.box(52, 52, 82, 82, 3, 0.75)
    canvas.polygon([(50, 18), (68, 50), (32, 50)], 1.2)


def _draw_jewel(canvas: _Canvas) -> None:
    canvas.ring(26, 34, 74, 82, 6)
    canvas.polygon([(42, 18), (58, 18), (64, 27), (50, 42), (36, 27)], 1.3)


def _draw_speaker(canvas: _Canvas) -> None:
    canvas.box(28, 14, 72, 86, 5)
    canvas.ellipse(40, 20, 60, 40, 0.6)
    canvas.ellipse(34, 44, 66, 76, 0.6)
    canvas.ellipse(44, 54, 56, 66, 1.2)


def _draw_pillow(canvas: _Canvas) -> None:
    canvas.box(16, 30, 84, 74, 14)
    canvas.box(22, 48, 78, 56, shade=0.85)


def _draw_bowl(canvas: _Canvas) -> None:
    canvas.polygon([(16, 44), (84, 44), (70, 78), (30, 78)])
    canvas.ellipse(16, 36, 84, 52, 0.7)


def _draw_person(canvas: _Canvas) -> None:
    canvas.ellipse(18, 62, 82, 124)
    canvas.ellipse(33, 20, 67, 58, 1.2)


_PERSON = "person"
_DRAWING_BY_SHAPE: dict[str, Callable[[_Canvas], None]] = {
    "garment": _draw_garment,
    "vase": _draw_vase,
    "mug": _draw_mug,
    "chair": _draw_chair,
    "shoe": _draw_shoe,
    "lamp": _draw_lamp,
    "bag": _draw_bag,
    "bottle": _draw_bottle,
    "book": _draw_book,
    "blocks": _draw_blocks,
    "jewel": _draw_jewel,
    "speaker": _draw_speaker,
    "pillow": _draw_pillow,
    "bowl": _draw_bowl,
    _PERSON: _draw_person,
}
_SHAPE_BY_CATEGORY = {
    "Clothing": "garment", "Home": "vase", "Kitchen": "mug", "Furniture": "chair", "Shoes": "shoe", "Lighting": "lamp",
    "Bags": "bag", "Bedroom": "pillow", "Bathroom": "bottle", "Garden": "vase", "Outdoors": "bag", "Stationery": "book",
    "Toys": "blocks", "Jewellery": "jewel", "Audio": "speaker", "Body Care": "bottle", "Cycling": "garment", "Pets": "bowl",
    "Дом": "vase", "Осветление": "lamp", "Мебели": "chair", "食器": "mug", "家具": "chair", "照明": "lamp",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn picture: the key prefix of its objects, as in `images.place`, and a tiny placeholder as a data URL."""

    place: str
    placeholder: str


@cache
def list_product_pictures(category: str) -> list[Picture]:
    """The pictures that products of a category may show."""
    return _list_pictures(_SHAPE_BY_CATEGORY[category])


@cache
def list_portraits() -> list[Picture]:
    """The pictures that users may show."""
    return _list_pictures(_PERSON)


def draw_pictures() -> Iterator[tuple[str, bytes]]:
    """All pictures, each with its key prefix."""
    for shape in _DRAWING_BY_SHAPE:
        for colour in _COLOURS:
            image = _draw(shape, colour, WIDTH_PIXELS * _SCALE).reduce(_SCALE)
            buffer = BytesIO()
            image.save(buffer, "WEBP", quality=80, method=0)
            yield _build_place(shape, colour), buffer.getvalue()


def _list_pictures(shape: str) -> list[Picture]:
    return [Picture(_build_place(shape, colour), render_placeholder(_draw(shape, colour, 64))) for colour in _COLOURS]


def _draw(shape: str, colour: str, size: int) -> Image.Image:
    canvas = _Canvas(SWATCHES[colour], size)
    _DRAWING_BY_SHAPE[shape](canvas)
    return canvas.image


def _build_place(shape: str, colour: str) -> str:
    return f"{SHARED_PREFIX}demo-{shape}-{colour.lower()}"
