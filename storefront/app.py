"""The Starlette application: its routes, middleware and lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from storefront import shop_page
from storefront.analytics import beacon
from storefront.analytics.dashboard import page as dashboard
from storefront.background import running_background_work
from storefront.core import logs
from storefront.core.settings import Settings, get_settings
from storefront.core.storage.disk import ROUTE_PREFIX, DiskStorage
from storefront.graphiql_page import build_graphiql
from storefront.media.image_endpoint import ImageEndpoint
from storefront.product_feeds.endpoint import FEEDS_PATH
from storefront.queries.images import MEDIA_PATH
from storefront.services import Services, build_services
from storefront.serving.http.cors import build_cors_middleware
from storefront.serving.http.endpoint import GraphQLEndpoint
from storefront.serving.http.request_body import BodyBudget, BodyLimits
from storefront.serving.http.status_codes import EDITIONS
from storefront.serving.http.storage_endpoint import create_storage_routes
from storefront.serving.protection.load_shedding import LOAD_SHEDDER_STATE_KEY
from storefront.serving.protection.security_headers import SecurityHeadersMiddleware
from storefront.serving.server.backpressure import BACKPRESSURE_STATE_KEY
from storefront.serving.server.connection_limit import CONNECTION_LIMIT_STATE_KEY
from storefront.serving.server.graceful_shutdown import drain_on_signal
from storefront.serving.server.http_protocol import WEBSOCKET_PATHS_STATE_KEY

# Their endpoints send CORS headers for any origin themselves.
PUBLIC_PATH_PREFIXES = (f"{ROUTE_PREFIX}/", f"{MEDIA_PATH}/", f"{FEEDS_PATH}/")


def create_app(settings_override: Settings | None = None) -> Starlette:
    """The application for these settings, or those of the environment. Raises RuntimeError without a database URL."""
    options = settings_override or get_settings()
    if options.database_url is None:
        raise RuntimeError("Set STOREFRONT_DATABASE_URL, or start with `storefront serve`, which brings a Postgres of its own.")
    logs.register_secrets(options.list_secret_values())
    services = build_services(options, options.database_url.get_secret_value())
    routes = _build_routes(options, services)
    # What the protocol classes of our Uvicorn read from the lifespan state.
    server_state: dict[str, Any] = {
        LOAD_SHEDDER_STATE_KEY: services.components.load_shedder,
        WEBSOCKET_PATHS_STATE_KEY: frozenset(route.path for route in routes if isinstance(route, WebSocketRoute)),
        BACKPRESSURE_STATE_KEY: services.components.write_backpressure,
        CONNECTION_LIMIT_STATE_KEY: services.components.connection_limit,
    }

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with (
            services.running(),
            running_background_work(services.context, options),
            services.observability.running(services.components),
        ):
            with drain_on_signal(services.drain, services.health.start_draining, options.shutdown_delay):
                yield server_state
            services.limit_shutdown()

    app = Starlette(routes=routes, lifespan=lifespan, middleware=_build_middleware(options, services))
    app.state.database = services.context.database
    return app


def _build_routes(options: Settings, services: Services) -> list[BaseRoute]:
    database, media_config = services.context.database, services.context.media_config
    body_limits = BodyLimits(
        options.max_body, options.body_timeout, options.max_values, options.max_signed_in_body, options.max_signed_in_values
    )
    body_budget = BodyBudget(options.max_bodies)
    graphiql_page, graphiql_routes = build_graphiql(options, database)
    endpoint = GraphQLEndpoint(
        services.operations,
        services.context_factory.make_context,
        services.components.streams,
        graphiql_page,
        response_cache=services.components.response_cache,
        vary=", ".join(("accept", *services.authenticator.credential_headers)),
        max_batch_size=options.max_batch,
        edition=EDITIONS[options.status_codes],
        body_limits=body_limits,
        body_budget=body_budget,
        rate_limiter=services.rate_limiter,
    )
    image_endpoint = ImageEndpoint(database, media_config.objects, media_config.image_processor, options.max_image_bytes)
    return [
        Route("/graphql", endpoint),
        WebSocketRoute("/graphql", services.components.sockets.serve),
        Route("/", RedirectResponse("/graphql")),
        *services.health.build_routes(),
        *beacon.build_routes(database, body_limits, body_budget, services.rate_limiter),
        *dashboard.build_routes(),
        *shop_page.build_routes(),
        *image_endpoint.build_routes(),
        *services.feed_endpoint.build_routes(),
        *(create_storage_routes(media_config.objects) if isinstance(media_config.objects, DiskStorage) else []),
        *graphiql_routes,
    ]


def _build_middleware(options: Settings, services: Services) -> list[Middleware]:
    """The middleware, outermost first. Security headers depend on the scheme, so proxy headers are applied before them."""
    return [
        *services.observability.middleware(),
        *_build_proxy_middleware(options),
        Middleware(SecurityHeadersMiddleware),
        *build_cors_middleware(
            options.origins(), open_to_origins=options.open_to_origins, public_path_prefixes=PUBLIC_PATH_PREFIXES
        ),
    ]


def _build_proxy_middleware(options: Settings) -> list[Middleware]:
    """Takes the client's address and scheme from the X-Forwarded headers of trusted proxies; ignores them without any."""
    trusted = options.proxy_networks()
    return [Middleware(ProxyHeadersMiddleware, trusted_hosts=trusted)] if trusted else []
