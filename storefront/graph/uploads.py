"""A request that whoever has a file sends by themselves, past this server where there is a bucket."""

from datetime import datetime
from typing import TypeVar

import strawberry

from storefront.core.storage.base import Presigned
from storefront.graph.cost_hints import costs
from storefront.graph.scalars import moment

U = TypeVar("U", bound="Upload")

SENT = (
    "A request to be sent by whoever has the file: this method to this address, with these headers and the whole file as its "
    "body. No cookie and no token goes with it."
)


@strawberry.type
class HttpHeader:
    name: str
    value: str


@strawberry.type
class Upload:
    id: strawberry.ID
    method: str
    url: str
    headers: list[HttpHeader] = strawberry.field(metadata=costs(size=1))
    expires_at: datetime = strawberry.field(description="When the address ends.")


def permitted(kind: type[U], id_: str, permit: Presigned) -> U:
    """An upload of this kind."""
    headers = [HttpHeader(name=name, value=value) for name, value in permit.headers.items()]
    expires = moment(permit.expires_at)
    return kind(id=strawberry.ID(id_), method=permit.method, url=permit.url, headers=headers, expires_at=expires)
