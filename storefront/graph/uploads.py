"""A request that whoever has a file sends by themselves, past this server where there is a bucket."""

from datetime import datetime
from typing import TypeVar

import strawberry

from storefront.core.storage.base import PresignedRequest
from storefront.graph.cost_hints import costs
from storefront.graph.scalars import format_datetime

U = TypeVar("U", bound="Upload")

UPLOAD_DESCRIPTION = (
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


def build_upload(upload_type: type[U], id_: str, presigned: PresignedRequest) -> U:
    """An upload of this kind."""
    headers = [HttpHeader(name=name, value=value) for name, value in presigned.headers.items()]
    expires_at = format_datetime(presigned.expires_at)
    return upload_type(id=strawberry.ID(id_), method=presigned.method, url=presigned.url, headers=headers, expires_at=expires_at)
