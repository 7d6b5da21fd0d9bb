"""Pictures by id, and the addresses under which they are served: those alone, so that nobody can have others made."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from hmac import compare_digest
from typing import NamedTuple

from sqlalchemy import select

from storefront.core.cache_dependencies import WITHIN
from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.core.image_processing import MADE
from storefront.models import images
from storefront.queries.batching import by_key
from storefront.queries.visibility import ids

MOUNT = "/media"
# The widths in pixels that there are; besides them each picture has its own.
WIDTHS = (32, 64, 128, 256, 384, 512, 640, 768, 1_024, 1_280, 1_600, 2_048, 2_560, 3_200)
# A picture at its own width.
FULL = "full"

_KEY = r"(?P<id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-(?P<token>[0-9a-f]{32})"
_OURS = re.compile(rf"{MOUNT}/{_KEY}/{FULL}\.[a-z]+$")
_NAME = re.compile(rf"(?P<width>{FULL}|[1-9][0-9]{{1,3}})\.(?P<extension>{'|'.join(MADE)})")


class Shown(NamedTuple):
    """A picture of a product: its address, and what is known of it. Of one that is kept elsewhere nothing is."""

    address: str
    id: str | None = None
    width: int | None = None
    height: int | None = None
    alt: str | None = None
    placeholder: str | None = None
    version: int | None = None
    extension: str | None = None
    place: str | None = None


async def by_ids(database: Database, keys: Sequence[str]) -> list[Row | None]:
    """The pictures with these ids."""
    return by_key(await database.fetch(_by_ids(), {"ids": list(keys)}), keys)


@cache
def _by_ids() -> Statement:
    return compiled(select(images).where(images.c.id == ids("ids")), reads=WITHIN)


async def by_address_key(database: Database, key: str) -> Row | None:
    """The picture whose address has this key: its id and its token. The id alone finds none."""
    parts = re.fullmatch(_KEY, key)
    (row,) = await by_ids(database, [parts["id"]]) if parts else [None]
    is_found = row is not None and parts is not None and compare_digest(row.token, parts["token"])
    return row if is_found else None


def address_of(base_url: str, id_: str, token: str, extension: str) -> str:
    """Where a picture is served at its own width: what the images of a product list. The token is not to be guessed."""
    return f"{base_url}{MOUNT}/{id_}-{token}/{FULL}.{extension}"


def id_in(address: str) -> str | None:
    """The id of the picture that an address looks like that of."""
    found = _OURS.search(address)
    return found["id"] if found else None


def shown(address: str, config_id: str, found: Mapping[str, Row | None]) -> Shown:
    """What a product of a store shows under an address. The pictures of other stores are as any others elsewhere."""
    row = found.get(id_in(address) or "")
    is_theirs = row is not None and row.config_id == config_id and row.swept_at is None and f"-{row.token}/" in address
    return of_row(address, row) if is_theirs else Shown(address)


def of_row(address: str, row: Row) -> Shown:
    """A picture of ours."""
    return Shown(address, row.id, row.width, row.height, row.alt, row.placeholder, row.version, row.extension, row.place)


def resized(picture: Shown, width: int | None, height: int | None, extension: str | None) -> str:
    """Where it is served at least so large, as far as it is, in a format; elsewhere it is as it is."""
    if picture.width is None or picture.height is None:
        return picture.address
    needed = max(width or 0, -(-(height or 0) * picture.width // picture.height)) or picture.width
    if width and height:
        # To fit into both, rather than to cover them.
        needed = min(width, -(-height * picture.width // picture.height))
    chosen = next((rung for rung in WIDTHS if needed <= rung < picture.width), FULL)
    return f"{picture.address.rpartition('/')[0]}/{chosen}.{extension or picture.extension}"


def named(name: str, width: int) -> tuple[int, str] | None:
    """The width and the format of what a picture of some width has under a name; None: it has nothing by that name."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    if found["width"] == FULL:
        return width, found["extension"]
    wanted = int(found["width"])
    return (wanted, found["extension"]) if wanted in WIDTHS and wanted < width else None
