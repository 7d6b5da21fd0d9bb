"""The mutation field that records events. It needs no credentials, because shoppers do not sign in."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import strawberry
from strawberry.types import get_object_definition

from storefront.analytics import commands
from storefront.analytics.commands import MAX_EVENTS_PER_REQUEST, EventResult, EventStatus
from storefront.analytics.event_validation import MAX_EVENT_AGE
from storefront.execution.strawberry_adapter import declare_enum
from storefront.graph.context import Info
from storefront.graph.cost_hints import ERROR_COSTS, costs
from storefront.graph.errors import UserError, build_user_error
from storefront.graph.limits import limits
from storefront.graph.mutations import ClientMutationInput, MutationPayload
from storefront.graph.permissions import ALLOWS_ANONYMOUS
from storefront.graph.scalars import JSON
from storefront.writes.field_errors import MutationRejected

declare_enum(
    EventStatus,
    "TrackedEventStatus",
    "What happened to an event.",
    {
        "RECORDED": "It was recorded.",
        "DUPLICATE": "It had been recorded before.",
        "IGNORED": "It was not recorded, because of `consent` or the browser's Do Not Track or Global Privacy Control setting.",
        "REJECTED": "It is invalid.",
    },
)


@strawberry.input(
    description="An action of a shopper. Each event is validated on its own: an invalid one does not affect the others."
)
class AnalyticsEventInput:
    event: str = strawberry.field(
        description='Name of the event. "page_view", "product_click", "add_to_cart", "purchase" and "search" are part of '
        "reports; other names can be up to 64 characters long."
    )
    client_event_id: str | None = strawberry.field(
        default=None,
        description="ID chosen by the client, preferably a UUID. Events with the same ID are recorded once within "
        f"{MAX_EVENT_AGE.days} days.",
    )
    properties: JSON | None = strawberry.field(
        default=None,
        description="Details, as a JSON object of at most 8 kB. `productId`, `variantId`, `quantity` and the other properties of "
        "known events are validated.",
    )
    session_id: str | None = strawberry.field(
        default=None,
        description="Session of the shopper; start a new one for each visit. Events without a session are not part of session "
        "figures.",
    )
    user_id: str | None = strawberry.field(default=None, description="ID that the shop's own system has for the shopper.")
    user_agent: str | None = strawberry.field(
        default=None, description="User agent of the shopper's browser; that of the request if omitted."
    )
    ip_address: str | None = strawberry.field(
        default=None,
        description="IP address of the shopper; that of the request if omitted. Only its network is stored.",
    )
    referrer: str | None = strawberry.field(default=None, description="URL of the referring page: `document.referrer`.")
    utm_source: str | None = strawberry.field(default=None, description="UTM source; taken from `properties.url` if omitted.")
    utm_medium: str | None = strawberry.field(default=None, description="UTM medium; taken from `properties.url` if omitted.")
    utm_campaign: str | None = strawberry.field(default=None, description="UTM campaign; taken from `properties.url` if omitted.")
    timestamp: str | None = strawberry.field(
        default=None,
        description=f"When the event happened, as RFC 3339 text; now if omitted. At most {MAX_EVENT_AGE.days} days ago. "
        "A String, so that an invalid time rejects this event only.",
    )


# Measured: coercing and validating an event takes 40 µs, twenty times as long as coercing an item of another list.
EVENT_ITEM_WEIGHT = 30

# Events are validated as mappings when they are stored. Converting each to an object and back took twice as long as all the
# rest.
get_object_definition(AnalyticsEventInput, strict=True).from_input = lambda _, given, __: given


@strawberry.input(description="Input of `trackEvents`.")
class TrackEventsInput(ClientMutationInput):
    config_id: strawberry.ID = strawberry.field(description="ID of the store.")
    events: list[AnalyticsEventInput] = strawberry.field(
        description="The events.", metadata=limits(items=MAX_EVENTS_PER_REQUEST, item_weight=EVENT_ITEM_WEIGHT)
    )
    consent: bool = strawberry.field(
        description="Whether the shopper has agreed to the recording. If false, nothing is recorded."
    )


@strawberry.type(description="What happened to an event of a `trackEvents` request.")
class TrackedEvent:
    index: int = strawberry.field(description="Zero-based index of the event in the input.")
    status: EventStatus = strawberry.field(description="What happened to the event.")
    user_errors: list[UserError] = strawberry.field(
        description="Why the event was rejected; empty otherwise.", metadata=ERROR_COSTS
    )


def _resolve_results(self: "TrackEventsPayload") -> list[TrackedEvent]:
    return [
        TrackedEvent(index=n, status=result.status, user_errors=[build_user_error(error) for error in result.field_errors])
        for n, result in enumerate(self.event_results)
    ]


@strawberry.type(description="Payload of `trackEvents`.")
class TrackEventsPayload(MutationPayload):
    recorded: int = strawberry.field(description="Number of events that were recorded.")
    results: list[TrackedEvent] = strawberry.field(
        resolver=_resolve_results, description="One result per event, in the order of the input."
    )
    event_results: strawberry.Private[Sequence[EventResult]] = ()


@strawberry.type
class AnalyticsMutation:
    @strawberry.mutation(
        description="Records what shoppers did. Needs no authentication. Events of browsers with Do Not Track or Global Privacy "
        "Control are ignored.",
        metadata=costs(size_arguments=("input.events",), max_size=MAX_EVENTS_PER_REQUEST) | ALLOWS_ANONYMOUS,
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
