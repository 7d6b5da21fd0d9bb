"""Signed uploads: requests with which clients send files directly to object storage."""

from datetime import datetime

import strawberry

from storefront.core.storage.base import PresignedRequest
from storefront.graph.cost_hints import costs
from storefront.graph.scalars import format_datetime


@strawberry.type(description="An HTTP header.")
class HttpHeader:
    name: str = strawberry.field(description="Name of the header.")
    value: str = strawberry.field(description="Value of the header.")


@strawberry.type(
    description="A signed request for uploading one file directly to storage. Send the file as the body, with this method, URL "
    "and these headers, and without cookies or tokens."
)
class SignedUpload:
    id: strawberry.ID = strawberry.field(description="ID for `confirmImageUpload` or `importProducts`.")
    method: str = strawberry.field(description="HTTP method.")
    url: str = strawberry.field(description="URL to send the file to.")
    headers: list[HttpHeader] = strawberry.field(description="HTTP headers to send.", metadata=costs(size=1))
    expires_at: datetime = strawberry.field(description="When the URL expires.")


def build_signed_upload(id_: str, presigned: PresignedRequest) -> SignedUpload:
    """The upload with this id, from its presigned request."""
    return SignedUpload(
        id=strawberry.ID(id_),
        method=presigned.method,
        url=presigned.url,
        headers=[HttpHeader(name=name, value=value) for name, value in presigned.headers.items()],
        expires_at=format_datetime(presigned.expires_at),
    )
