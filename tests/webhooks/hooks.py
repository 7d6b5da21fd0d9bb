"""A server that delivers webhooks, and helpers that create stores, webhooks and changes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from storefront.core.encryption import generate_key
from tests.client import Client
from tests.conftest import serving
from tests.factories import make_store, make_user

ERRORS = "userErrors { code message path ... on StaleVersionError { currentVersion changedFields } }"
FIELDS = """id config { id } url topics query readAs position version isEnabled disabledAt disabledReason failingSince
  consecutiveFailures suspendedUntil previousSecretExpiresAt pendingCount"""
DELIVERY = """id webhook { id } type position productId status attemptCount nextAttemptAt createdAt finishedAt
  attempts { startedAt statusCode durationMs error }"""
CREATE = f"mutation($i: CreateWebhookInput!) {{ createWebhook(input: $i) {{ webhook {{ {FIELDS} }} secret replayed {ERRORS} }} }}"
UPDATE = f"mutation($i: UpdateWebhookInput!) {{ updateWebhook(input: $i) {{ webhook {{ {FIELDS} }} {ERRORS} }} }}"
ROTATE = (
    f"mutation($i: RotateWebhookSecretInput!) {{ rotateWebhookSecret(input: $i) {{ webhook {{ {FIELDS} }} secret {ERRORS} }} }}"
)
DELETE = f"mutation($i: DeleteWebhookInput!) {{ deleteWebhook(input: $i) {{ deletedId {ERRORS} }} }}"
REPLAY = f"mutation($i: ReplayWebhookInput!) {{ replayWebhook(input: $i) {{ webhook {{ {FIELDS} }} {ERRORS} }} }}"
RESEND = (
    f"mutation($i: ResendWebhookDeliveryInput!) {{ resendWebhookDelivery(input: $i) {{ delivery {{ {DELIVERY} }} {ERRORS} }} }}"
)
TEST = f"mutation($i: TestWebhookInput!) {{ testWebhook(input: $i) {{ delivery {{ {DELIVERY} }} body {ERRORS} }} }}"
FIND = f"""query($i: ID!) {{ webhook(id: $i) {{ {FIELDS} deliveries(first: 50) {{
  nodes {{ {DELIVERY} }} totalCount pageInfo {{ hasNextPage }} }} }} }}"""
LIST = f"query($i: ID!) {{ config(by: {{id: $i}}) {{ webhooks {{ {FIELDS} }} }} }}"
ADD = "mutation($i: CreateProductInput!) { createProduct(input: $i) { product { id } position userErrors { message } } }"
CHANGE = "mutation($i: UpdateProductInput!) { updateProduct(input: $i) { position userErrors { message } } }"
REMOVE = "mutation($i: DeleteProductInput!) { deleteProduct(input: $i) { position userErrors { message } } }"

PRODUCT = "query($productId: ID!) { product(by: {id: $productId}) { id title price } }"
PRODUCTS = ["PRODUCT_CREATED", "PRODUCT_UPDATED", "PRODUCT_DELETED"]

# Short intervals; delivery to localhost is allowed.
QUICK: dict[str, Any] = {
    "webhook_interval": 0.1,
    "webhook_http": True,
    "webhook_networks": "127.0.0.1/32",
    "webhook_timeout": 2.0,
    "webhook_retry": 0.05,
    "webhook_max_payload": 4_096,
}


@asynccontextmanager
async def delivering(url: str, folder: Path, **options: Any) -> AsyncIterator[Client]:
    """A server that delivers at short intervals."""
    async with serving(url, folder, encryption_keys=SecretStr(generate_key()), **{**QUICK, **options}) as client:
        yield client


async def run_mutation(client: Client, document: str, **input_: Any) -> dict[str, Any]:
    """Execute a mutation; returns its payload."""
    [payload] = (await client.ask(document, i=input_)).values()
    return dict(payload)


def list_errors(payload: dict[str, Any]) -> list[tuple[str, str]]:
    return [(error["code"], ".".join(error["path"])) for error in payload["userErrors"]]


async def owner_with_store(client: Client, **values: Any) -> tuple[Client, str]:
    """Create a user and a store."""
    user = await make_user(client.database)
    return client.signed_in(user), await make_store(client.database, user_id=user, **values)


async def create_webhook(owner: Client, store: str, url: str, **given: Any) -> dict[str, Any]:
    """Create a webhook; returns it with its `secret`."""
    payload = await run_mutation(owner, CREATE, **{"configId": store, "url": url, "topics": PRODUCTS, "query": PRODUCT, **given})
    assert payload["userErrors"] == [], payload
    return {**payload["webhook"], "secret": payload["secret"]}


async def add_product(owner: Client, store: str, **given: Any) -> str:
    payload = await run_mutation(owner, ADD, **{"configId": store, "title": "Mug", "price": "10", **given})
    assert payload["userErrors"] == []
    return str(payload["product"]["id"])


async def change_product(owner: Client, product: str, **given: Any) -> int:
    payload = await run_mutation(owner, CHANGE, id=product, **given)
    assert payload["userErrors"] == []
    return int(payload["position"])


async def load_webhook(owner: Client, webhook_id: str) -> dict[str, Any]:
    return dict((await owner.ask(FIND, i=webhook_id))["webhook"])
