"""Beacon endpoint, POST /events/{configId}: events from navigator.sendBeacon, from any origin, as plain text or JSON."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from storefront.analytics import commands
from storefront.analytics.commands import EventResult, EventStatus
from storefront.core import request_context
from storefront.core.db.database import Database
from storefront.core.errors import InvalidInput, NotFound, RequestError
from storefront.core.net.client_info import ClientInfo
from storefront.serving.errors import format_errors
from storefront.serving.http import lone_surrogates
from storefront.serving.http.cors import ANY_ORIGIN_HEADERS
from storefront.serving.http.negotiation import GRAPHQL_JSON
from storefront.serving.http.request_body import BodyBudget, BodyLimits, HTTPError, check_value_count, read_body
from storefront.serving.http.status_codes import DRAFT, build_error_headers
from storefront.serving.protection.rate_limit import (
    DEFAULT_RATE_LIMITER,
    RateLimiter,
    RateLimitScope,
    get_caller_key,
)
from storefront.serving.run.results import wrap_error
from storefront.writes.field_errors import FieldError, MutationRejected, UserErrorCode

T = TypeVar("T")

# The pages of a shop may have any origin. No response depends on who sends it: cookies are ignored.
PREFLIGHT_HEADERS = {
    **ANY_ORIGIN_HEADERS,
    "access-control-allow-methods": "POST",
    "access-control-allow-headers": "content-type, x-request-id",
    "access-control-max-age": "86400",
}
STATUS_BY_ERROR_CODE = {"NOT_FOUND": 404}
EXAMPLE_BODY = '{"events": [{"event": "page_view"}], "consent": true}'


def build_routes(
    database: Database, body_limits: BodyLimits, body_budget: BodyBudget, rate_limiter: RateLimiter = DEFAULT_RATE_LIMITER
) -> list[BaseRoute]:
    """The routes, to mount at the root."""

    async def serve_events(request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=PREFLIGHT_HEADERS)
        request_id = request_context.get_request_id()
        try:
            await rate_limiter.consume(RateLimitScope.EVENTS, get_caller_key(request.client.host if request.client else None))
            status, content = await _record_events(request, database, request_id, body_limits, body_budget)
            headers: Mapping[str, str] = {}
        except Exception as error:
            content = {"errors": format_errors([wrap_error(error)], request_id)}
            # As at /graphql for clients that do not expect 200 for every well-formed request.
            status, headers = (
                (error.status, error.headers)
                if isinstance(error, HTTPError)
                else (DRAFT.choose_status(content, GRAPHQL_JSON), build_error_headers(error))
            )
        return Response(orjson.dumps(content), status, {**ANY_ORIGIN_HEADERS, **headers}, "application/json")

    return [Route("/events/{config_id}", serve_events, methods=["POST", "OPTIONS"])]


async def _record_events(
    request: Request, database: Database, request_id: str, body_limits: BodyLimits, body_budget: BodyBudget
) -> tuple[int, dict[str, Any]]:
    try:
        with body_budget.track() as body:
            events, consent = _parse_events(await read_body(request, body_limits, body_budget, body), body_limits.max_values)
        request_context.register_sensitive(events)
        client_info = ClientInfo(request.headers, request.client.host if request.client else None)
        results = await commands.track_events(database, request.path_params["config_id"], events, client_info, consent=consent)
    except MutationRejected as rejection:
        return _build_rejection(rejection.field_errors, request_id)
    recorded = sum(result.status is EventStatus.RECORDED for result in results)
    return 200, {"recorded": recorded, "results": [_to_result_json(n, result) for n, result in enumerate(results)]}


def _parse_events(body: bytes, max_values: int) -> tuple[Sequence[Any], bool]:
    """Parse the body: an object with `events` and `consent`. Returns both."""
    content = _parse_json(body, max_values)
    if not isinstance(content, dict):
        raise HTTPError(400, f"The body must be JSON such as {EXAMPLE_BODY}.")
    if unknown := content.keys() - {"events", "consent"}:
        name = min(unknown)[:60].encode(errors="replace").decode()
        raise InvalidInput(name, "is not a known field. The fields are events and consent.")
    if "consent" not in content:
        raise InvalidInput("consent", "is missing: true if the shopper has agreed to the recording, false otherwise.")
    consent = _require_type(bool, content["consent"], "consent", "true or false.")
    return _require_type(list, content.get("events"), "events", f"a list, as in {EXAMPLE_BODY}."), consent


def _require_type(type_: type[T], value: Any, name: str, description: str) -> T:
    if not isinstance(value, type_):
        raise InvalidInput(name, f"must be {description}")
    return value


def _parse_json(body: bytes, max_values: int) -> Any:
    check_value_count(body, "The body", max_values)
    try:
        content, needs_number_check = lone_surrogates.loads(body)
    except ValueError:
        raise HTTPError(400, f"The body is not valid JSON. Send JSON such as {EXAMPLE_BODY}.") from None
    if needs_number_check:
        lone_surrogates.check_numbers(content)
    return content


def _build_rejection(field_errors: Sequence[FieldError], request_id: str) -> tuple[int, dict[str, Any]]:
    first = field_errors[0]
    error_class = NotFound if first.code is UserErrorCode.NOT_FOUND else RequestError
    errors = format_errors([wrap_error(error_class(first.message, ".".join(first.path)))], request_id)
    return STATUS_BY_ERROR_CODE.get(first.code.value, 400), {"errors": errors}


def _to_result_json(n: int, result: EventResult) -> dict[str, Any]:
    errors = [
        {"code": field_error.code.value, "message": field_error.message, "path": field_error.path}
        for field_error in result.field_errors
    ]
    return {"index": n, "status": result.status.name} | ({"errors": errors} if errors else {})
