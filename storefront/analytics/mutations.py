"""The mutation field that records events. It needs no credentials, because shoppers do not sign in."""

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
from storefront.graph.mutations import ClientMutationInput, MutationPayload
from storefront.graph.scalars import JSON
from storefront.writes.field_errors import MutationRejected

strawberry.enum(EventStatus, name="TrackedEventStatus", description="The result of an event.")

FROM_REQUEST_DESCRIPTION = "By default taken from the headers of the request."


@strawberry.input(description="An action of a shopper. Each event is validated on its own.")
class AnalyticsEventInput:
    event: str = strawberry.field(
        description="page_view, product_click, add_to_cart, purchase or search, which are counted in reports; or a custom name."
    )
    client_event_id: str | None = strawberry.field(
        default=None,
        description=f"Deduplication key, such as a UUID: sent again within {MAX_EVENT_AGE.days} days, an event counts once.",
    )
    properties: JSON | None = strawberry.field(
        default=None,
        description="An object of at most 8 kB. In known events productId, quantity, query, … are validated.",
    )
    session_id: str | None = strawberry.field(
        default=None, description="A new id for each session. Without it the event belongs to no session."
    )
    user_id: str | None = strawberry.field(default=None, description="The id of the shopper in your shop, if known.")
    user_agent: str | None = strawberry.field(default=None, description=FROM_REQUEST_DESCRIPTION)
    ip_address: str | None = strawberry.field(default=None, description=f"{FROM_REQUEST_DESCRIPTION} Only its network is stored.")
    referrer: str | None = strawberry.field(default=None, description="The referrer of the page: document.referrer.")
    utm_source: str | None = strawberry.field(
        default=None, description="By default the three utm fields are parsed from properties.url."
    )
    utm_medium: str | None = None
    utm_campaign: str | None = None
    timestamp: str | None = strawberry.field(
        default=None,
        description=f"Time of the event in RFC 3339, at most {MAX_EVENT_AGE.days} days ago; the current time by default. "
        "A time in the future is stored as the current time.",
    )


# Events are validated as mappings when they are stored. Converting each to an object and back took twice as long as all the
# rest.
get_object_definition(AnalyticsEventInput, strict=True).from_input = lambda _, given, __: given


@strawberry.input
class TrackEventsInput(ClientMutationInput):
    config_id: strawberry.ID
    events: list[AnalyticsEventInput] = strawberry.field(metadata=limits(items=MAX_EVENTS_PER_REQUEST))
    consent: bool = strawberry.field(default=True, description="Consent of the shopper. If false nothing is stored.")


@strawberry.type(description="The result of one event.")
class TrackedEvent:
    index: int
    status: EventStatus
    user_errors: list[UserError] = strawberry.field(description="Why the event was rejected.", metadata=ERROR_COSTS)


def _resolve_results(self: "TrackEventsPayload") -> list[TrackedEvent]:
    return [
        TrackedEvent(index=n, status=result.status, user_errors=[build_user_error(error) for error in result.field_errors])
        for n, result in enumerate(self.event_results)
    ]


@strawberry.type
class TrackEventsPayload(MutationPayload):
    recorded: int = strawberry.field(description="Number of newly recorded events.")
    results: list[TrackedEvent] = strawberry.field(
        resolver=_resolve_results, description="A result per event, in the same order."
    )
    event_results: strawberry.Private[Sequence[EventResult]] = ()


@strawberry.type
class AnalyticsMutation:
    @strawberry.mutation(
        description="Record events of shoppers. Nothing is stored if the browser objects (Do Not Track, Global Privacy Control).",
        metadata=costs(size_arguments=("input.events",), max_size=MAX_EVENTS_PER_REQUEST),
    )
    async def track_events(self, info: Info, input: TrackEventsInput) -> TrackEventsPayload | None:
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
            return TrackEventsPayload(user_errors=errors, recorded=0, client_mutation_id=input.client_mutation_id or None)
        recorded = sum(result.status is EventStatus.RECORDED for result in results)
        return TrackEventsPayload(
            user_errors=[], recorded=recorded, client_mutation_id=input.client_mutation_id or None, event_results=results
        )
