"""Presigned uploads: requests that clients send directly to object storage."""

from datetime import datetime
from typing import TypeVar

import strawberry

from storefront.core.storage.base import PresignedRequest
from storefront.graph.cost_hints import costs
from storefront.graph.scalars import format_datetime

U = TypeVar("U", bound="Upload")

UPLOAD_DESCRIPTION = (
    "A presigned request: send the whole file as its body, with this method and these headers, to this URL. Send no cookie and "
    "no token."
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
    expires_at: datetime = strawberry.field(description="When the URL expires.")


def build_upload(upload_type: type[U], id_: str, presigned: PresignedRequest) -> U:
    """The upload type of a presigned request."""
    headers = [HttpHeader(name=name, value=value) for name, value in presigned.headers.items()]
    expires_at = format_datetime(presigned.expires_at)
    return upload_type(id=strawberry.ID(id_), method=presigned.method, url=presigned.url, headers=headers, expires_at=expires_at)
