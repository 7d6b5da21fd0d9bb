"""The upload flow of a merchant's page: create, upload, confirm, update and remove images."""

from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import httpx

from tests.client import Client
from tests.factories import make_product, make_store, make_user

CREATE = """mutation($input: CreateImageUploadInput!) { createImageUpload(input: $input) {
  userErrors { code message path } upload { id url method headers { name value } expiresAt } } }"""
IMAGE = "id width height alt placeholder version url small: url(width: 100)"
CONFIRM = f"""mutation($input: ConfirmImageUploadInput!) {{ confirmImageUpload(input: $input) {{
  userErrors {{ code message path }} position replayed
  product {{ id version images gallery {{ {IMAGE} }} }} image {{ {IMAGE} }} }} }}"""
UPDATE = f"""mutation($input: UpdateImageInput!) {{ updateImage(input: $input) {{
  userErrors {{ code message path }} position product {{ id version images gallery {{ id alt }} }} image {{ {IMAGE} }} }} }}"""
REMOVE = """mutation($input: RemoveImageInput!) { removeImage(input: $input) {
  userErrors { code message path } position product { id version images gallery { id } } image { id } } }"""
SHOWN = f"query($id: ID!) {{ product(by: {{ id: $id }}) {{ version images gallery {{ {IMAGE} }} }} }}"


@dataclass(frozen=True, slots=True)
class Merchant:
    """The owner of a store with a product, and an anonymous HTTP client for uploads."""

    client: Client
    http: httpx.AsyncClient
    user: str
    store: str
    product: str

    async def create_upload(self, content: bytes, content_type: str = "image/jpeg", **more: Any) -> Any:
        """Create an upload for this file."""
        values = {"configId": self.store, "contentType": content_type, "size": len(content), **more}
        return (await self.client.ask(CREATE, input=values))["createImageUpload"]

    async def send_file(self, upload: Any, content: bytes, **headers: str) -> httpx.Response:
        """Send the presigned request with a body."""
        given = {header["name"]: header["value"] for header in upload["headers"]}
        return await self.http.request(upload["method"], upload["url"], headers={**given, **headers}, content=content)

    async def upload(self, content: bytes, content_type: str = "image/jpeg") -> str:
        """Create an upload and send its file; returns its id."""
        upload = (await self.create_upload(content, content_type))["upload"]
        assert (await self.send_file(upload, content)).status_code == 200
        return str(upload["id"])

    async def confirm(self, upload_id: str, **more: Any) -> Any:
        """Confirm the upload; returns the payload."""
        values = {"uploadId": upload_id, "productId": self.product, **more}
        return (await self.client.ask(CONFIRM, input=values))["confirmImageUpload"]

    async def add_image(self, content: bytes, content_type: str = "image/jpeg", **more: Any) -> Any:
        """Upload and confirm an image; returns it."""
        confirmed = await self.confirm(await self.upload(content, content_type), **more)
        assert confirmed["userErrors"] == [], confirmed
        return confirmed["image"]

    async def load_product(self) -> Any:
        """Load the product with its images."""
        return (await self.client.ask(SHOWN, id=self.product))["product"]


async def make_merchant(client: Client, http: httpx.AsyncClient) -> Merchant:
    """Create a merchant with a store and a product."""
    user = await make_user(client.database)
    store = await make_store(client.database, user_id=user)
    product = await make_product(client.database, store, images=["https://elsewhere.example/mug.jpg"])
    return Merchant(client.signed_in(user), http, user, store, product)


def external_id(url: str) -> str:
    """The id of an image that is hosted elsewhere."""
    return str(uuid5(NAMESPACE_URL, url))
