"""Events as a browser sends them when its page is being left: POST /events/{configId}, from any page, as plain text or JSON."""

from collections.abc import Sequence
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from storefront.analytics import commands
from storefront.analytics.commands import Fate, Result
from storefront.core import request_context
from storefront.core.db.database import Database
from storefront.core.errors import InvalidInput, NotFound, RequestError
from storefront.core.net.client_info import Sender
from storefront.serving.errors import formatted
from storefront.serving.http import lone_surrogates
from storefront.serving.http.request_body import ROOMY, BodyLimits, HTTPError, body_of
from storefront.serving.protection.rate_limit import UNLIMITED, Door, RateLimited, Rates, caller_of
from storefront.serving.run.operations import wrapped
from storefront.writes.transaction import Code, Failure, Refused

T = TypeVar("T")

# A shop's pages may stand anywhere. Nothing is told to them that depends on who they are: cookies are not looked at.
ANYWHERE = {"access-control-allow-origin": "*"}
PREFLIGHT = {
    **ANYWHERE,
    "access-control-allow-methods": "POST",
    "access-control-allow-headers": "content-type, x-request-id",
    "access-control-max-age": "86400",
}
STATUS = {"NOT_FOUND": 404}
SHAPE = '{"events": [{"event": "page_view"}]}'


def routes(database: Database, bodies: BodyLimits = ROOMY, rates: Rates = UNLIMITED) -> list[BaseRoute]:
    """What to mount at the root."""

    async def events(request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=PREFLIGHT)
        headers: dict[str, str] = {}
        try:
            await rates.take(Door.EVENTS, caller_of(request.client.host if request.client else None))
            status, answer = await _answer(request, database, request_context.request_id(), bodies)
        except RateLimited as error:
            status, answer = 429, {"errors": formatted([wrapped(error)], request_context.request_id())}
            headers = {"retry-after": str(error.retry_after), **error.allowance.headers()}
        except HTTPError as error:
            status, answer, headers = (
                error.status,
                {"errors": formatted([wrapped(error)], request_context.request_id())},
                error.headers,
            )
        return Response(orjson.dumps(answer), status, {**ANYWHERE, **headers}, "application/json")

    return [Route("/events/{config_id}", events, methods=["POST", "OPTIONS"])]


async def _answer(request: Request, database: Database, request_id: str, bodies: BodyLimits) -> tuple[int, dict[str, Any]]:
    try:
        events, consent = _read(await body_of(request, bodies))
        request_context.confide(events)
        sender = Sender(request.headers, request.client.host if request.client else None)
        results = await commands.track_events(database, request.path_params["config_id"], events, sender, consent=consent)
    except Refused as refusal:
        return _refused(refusal.failures, request_id)
    except HTTPError:
        raise
    except RequestError as error:
        return 400, {"errors": formatted([wrapped(error)], request_id)}
    except Exception as error:
        return 500, {"errors": formatted([wrapped(error)], request_id)}
    recorded = sum(result.fate is Fate.RECORDED for result in results)
    return 200, {"recorded": recorded, "results": [_told(n, result) for n, result in enumerate(results)]}


def _read(body: bytes) -> tuple[Sequence[Any], bool]:
    """The events, and whether their shopper has agreed: a list, an object with `events`, or a single event."""
    given = _json(body)
    if isinstance(given, list):
        return given, True
    if not isinstance(given, dict):
        raise HTTPError(400, f"The body must be JSON such as {SHAPE}.")
    if "events" not in given:
        return [given], True
    if unknown := given.keys() - {"events", "consent"}:
        name = min(unknown)[:60].encode(errors="replace").decode()
        raise InvalidInput(name, "is no field here. The fields are events and consent.")
    consent = _of_kind(bool, given.get("consent", True), "consent", "true or false.")
    return _of_kind(list, given["events"], "events", f"a list, as in {SHAPE}."), consent


def _of_kind(kind: type[T], value: Any, name: str, what: str) -> T:
    if not isinstance(value, kind):
        raise InvalidInput(name, f"must be {what}")
    return value


def _json(body: bytes) -> Any:
    try:
        given, is_unusual = lone_surrogates.loads(body)
    except ValueError:
        raise HTTPError(400, f"The body is not JSON. Send such as {SHAPE}.") from None
    if is_unusual:
        lone_surrogates.check_numbers(given)
    return given


def _refused(failures: Sequence[Failure], request_id: str) -> tuple[int, dict[str, Any]]:
    first = failures[0]
    kind = NotFound if first.code is Code.NOT_FOUND else RequestError
    errors = formatted([wrapped(kind(first.message, ".".join(first.path)))], request_id)
    return STATUS.get(first.code.value, 400), {"errors": errors}


def _told(n: int, result: Result) -> dict[str, Any]:
    faults = [{"code": fault.code.value, "message": fault.message, "path": fault.path} for fault in result.faults]
    return {"index": n, "status": result.fate.name} | ({"errors": faults} if faults else {})
