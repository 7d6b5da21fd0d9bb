"""The field that takes what shoppers did: for everybody, because shoppers do not sign in."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import strawberry
from strawberry.types import get_object_definition

from storefront.analytics import commands
from storefront.analytics.commands import MAX_EVENTS_PER_REQUEST, EventResult, EventStatus
from storefront.analytics.event_validation import MAX_EVENT_AGE
from storefront.graph.context import Info
from storefront.graph.cost_hints import ERROR_COSTS, costs
from storefront.graph.errors import UserError, build_user_error
from storefront.graph.limits import limits
from storefront.graph.scalars import JSON
from storefront.writes.transaction import MutationRejected

strawberry.enum(EventStatus, name="TrackedEventStatus", description="What became of an event.")

FROM_REQUEST_DESCRIPTION = "As the request says unless given."


@strawberry.input(description="Something that a shopper did. Each event is judged on its own.")
class EventInput:
    event: str = strawberry.field(
        description="page_view, product_click, add_to_cart, purchase or search, which are counted; or a name of your own."
    )
    client_event_id: str | None = strawberry.field(
        default=None,
        description=f"Of your choosing, best a UUID: sent again within {MAX_EVENT_AGE.days} days, the event counts once.",
    )
    properties: JSON | None = strawberry.field(
        default=None,
        description="An object of at most 8 kB. Of known events productId, variantId, quantity, query, … are checked.",
    )
    session_id: str | None = strawberry.field(
        default=None, description="A new one for each visit. Without it, it is no session's."
    )
    user_id: str | None = strawberry.field(default=None, description="Who it was, where your shop knows.")
    user_agent: str | None = strawberry.field(default=None, description=FROM_REQUEST_DESCRIPTION)
    ip_address: str | None = strawberry.field(default=None, description=f"{FROM_REQUEST_DESCRIPTION} Only its network is stored.")
    referrer: str | None = strawberry.field(default=None, description="Where they came from: document.referrer.")
    utm_source: str | None = strawberry.field(default=None, description="These three are found in properties.url, too.")
    utm_medium: str | None = None
    utm_campaign: str | None = None
    timestamp: str | None = strawberry.field(
        default=None,
        description=f"When, as RFC 3339 text; now unless given. At most {MAX_EVENT_AGE.days} days ago; what is ahead of us is "
        "now.",
    )


# The events are judged where they are stored. To make an object of each, only to take it apart again, took twice as long as
# all the rest.
get_object_definition(EventInput, strict=True).from_input = lambda _, given, __: given


@strawberry.input
class TrackEventsInput:
    config_id: strawberry.ID
    events: list[EventInput] = strawberry.field(metadata=limits(items=MAX_EVENTS_PER_REQUEST))
    consent: bool = strawberry.field(default=True, description="Whether the shopper has agreed. Without it nothing is stored.")
    client_mutation_id: str | None = strawberry.field(default=None, description="Yours to choose: told back.")


@strawberry.type(description="What became of one event.")
class TrackedEvent:
    index: int
    status: EventStatus
    user_errors: list[UserError] = strawberry.field(description="Why it was rejected.", metadata=ERROR_COSTS)


def _resolve_results(self: Any) -> list[TrackedEvent]:
    return [
        TrackedEvent(index=n, status=result.status, user_errors=[build_user_error(error) for error in result.field_errors])
        for n, result in enumerate(self.event_results)
    ]


@strawberry.type
class TrackEventsPayload:
    user_errors: list[UserError] = strawberry.field(
        description="Why none was recorded: what is wrong with all of them.", metadata=ERROR_COSTS
    )
    recorded: int = strawberry.field(description="How many were recorded now.")
    results: list[TrackedEvent] = strawberry.field(resolver=_resolve_results, description="One per event, in their order.")
    client_mutation_id: str | None
    event_results: strawberry.Private[Sequence[EventResult]] = ()


@strawberry.type
class AnalyticsMutation:
    @strawberry.mutation(
        description="Record what shoppers did. Nothing is stored of those whose browsers object (Do Not Track, Sec-GPC).",
        metadata=costs(size_arguments=("input.events",), max_size=MAX_EVENTS_PER_REQUEST),
    )
    async def track_events(self, info: Info, input: TrackEventsInput) -> TrackEventsPayload:
        context, events = info.context, cast("Sequence[Mapping[str, Any]]", input.events)
        try:
            results = await commands.track_events(
                context.database,
                str(input.config_id),
                events,
                context.client_info,
                owned_store_ids=[*context.owned_store_ids],
                consent=input.consent,
            )
        except MutationRejected as rejection:
            errors = [build_user_error(failure) for failure in rejection.field_errors]
            return TrackEventsPayload(user_errors=errors, recorded=0, client_mutation_id=input.client_mutation_id)
        recorded = sum(result.status is EventStatus.RECORDED for result in results)
        return TrackEventsPayload(
            user_errors=[], recorded=recorded, client_mutation_id=input.client_mutation_id, event_results=results
        )
