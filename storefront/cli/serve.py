"""The command that serves the API."""

import json
import os
import signal
import socket
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Annotated, Any

import typer
import uvicorn
from uvicorn.config import STARTUP_FAILURE

from storefront.cli.database import load_demo_if_empty, migrate_database
from storefront.cli.support import (
    check_migrations,
    fail,
    load_settings,
    out,
    run_with_database,
    running_postgres,
    unwind_on_signals,
)
from storefront.cli.users import issue_token
from storefront.core import logs
from storefront.core.auth.csrf import LOOPBACK_ORIGINS
from storefront.core.settings import Settings, get_settings
from storefront.demo.traffic import running_traffic
from storefront.media.address_moves import move_image_addresses
from storefront.queries import configs
from storefront.serving.documents.manifests import ManifestError
from storefront.serving.server import websocket_protocol
from storefront.serving.server.supervisor import WorkerSupervisor
from storefront.shop_page import list_built_files

app = typer.Typer()

APPLICATION = "storefront.server:create_server"
# How many connections a process accepts in one turn of its loop.
ACCEPTED_PER_TURN = 16
DEMO_USER = "demo@example.com"
DEMO_LOG_RETENTION_DAYS = 3_650


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Server processes.")] = None,
    reload: Annotated[bool, typer.Option(help="Restart whenever a source file changes.")] = False,
    demo: Annotated[bool, typer.Option(help="Migrate first, and load demo data into an empty database.")] = False,
) -> None:
    """Serve the API. Without STOREFRONT_DATABASE_URL an embedded Postgres is started, migrated and stopped again."""
    overrides = {"host": host, "port": port, "workers": workers}
    options = load_settings().model_copy(update={name: value for name, value in overrides.items() if value is not None})
    if demo:
        options = _apply_demo_defaults(options)
    logs.register_secrets(options.list_secret_values())
    unwind_on_signals()
    with running_postgres(options) as url:
        if demo or options.database_url is None:
            migrate_database(url)
        if demo:
            load_demo_if_empty(options, url)
            # It may have been loaded by a server with another host or port.
            run_with_database(url, partial(move_image_addresses, base_url=options.base_url()))
        check_migrations(url)
        _check_documents(options)
        _print_welcome(options, url, demo)
        _pass_settings_to_workers(options, url)
        with _running_demo_traffic(options, url) if demo else nullcontext():
            _run_server(options, reload)


def _apply_demo_defaults(options: Settings) -> Settings:
    """The settings with the defaults of a demo for those that are not set."""
    defaults: dict[str, object] = {}
    if options.allowed_origins is None and not options.is_exposed():
        # Front ends in development have servers of their own, on whichever port is free.
        defaults["allowed_origins"] = ",".join(LOOPBACK_ORIGINS)
    if "log_retention_days" not in options.model_fields_set:
        # The log of the demo data goes back a year: clients that read it from its beginning find all of it.
        defaults["log_retention_days"] = DEMO_LOG_RETENTION_DAYS
    return options.model_copy(update=defaults)


def _running_demo_traffic(options: Settings, url: str) -> AbstractContextManager[None]:
    # A wildcard address is no address to connect to.
    host = "127.0.0.1" if options.host in ("0.0.0.0", "::") else options.host  # noqa: S104
    server_url = f"http://[{host}]:{options.port}" if ":" in host else f"http://{host}:{options.port}"
    return running_traffic(server_url, partial(issue_token, options, url, DEMO_USER, None, days=1))


def _print_welcome(options: Settings, url: str, demo: bool) -> None:
    """Print the URLs of the pages and a curl command; with demo data, also a token for the demo user."""
    base_url = f"http://{options.host}:{options.port}"
    store = run_with_database(url, configs.load_busiest_store)
    slug = store.slug if store else "my-store"
    document = f'{{ config(by: {{slug: "{slug}"}}) {{ storeName products(first: 3) {{ nodes {{ title price }} }} }} }}'
    query = json.dumps({"query": document})
    out.print(f"\nstorefront is starting on [bold]{base_url}[/bold]   (Ctrl-C stops it)\n\n  GraphiQL     {base_url}/graphql")
    out.print(f"  Dashboard    {base_url}/dashboard/{slug}")
    if list_built_files():
        out.print(f"  Demo shop    {base_url}/shop/{slug}")
    out.print(
        f"  Try          curl -s {base_url}/graphql -H 'content-type: application/json' -d '{query}'",
        markup=False,
        highlight=False,
    )
    if not demo:
        return
    # Only with demo data: elsewhere a valid token would end up in the logs of the server's output.
    out.print(f"  Token        {issue_token(options, url, DEMO_USER, None, days=1)}", markup=False, highlight=False)
    out.print(f"               of {DEMO_USER}, valid for a day, for the header Authorization: Bearer <token>\n")


def _pass_settings_to_workers(options: Settings, url: str) -> None:
    # Worker processes read the environment: pass on options of the command line and the URL of the embedded server.
    os.environ["STOREFRONT_DATABASE_URL"] = url
    os.environ["STOREFRONT_SECRET"] = options.load_signing_secret()
    os.environ["STOREFRONT_WORKERS"] = str(options.workers)
    # The default rate limits depend on whether other machines reach the server.
    os.environ["STOREFRONT_HOST"] = options.host
    os.environ["STOREFRONT_PUBLIC_URL"] = options.base_url()
    os.environ["STOREFRONT_LOG_RETENTION_DAYS"] = str(options.log_retention_days)
    if options.allowed_origins is not None:
        os.environ["STOREFRONT_ALLOWED_ORIGINS"] = options.allowed_origins
    get_settings.cache_clear()


def _run_server(options: Settings, reload: bool) -> None:
    uvicorn_options: dict[str, Any] = {
        "factory": True,
        "host": options.host,
        "port": options.port,
        "workers": options.workers,
        # The application handles trusted proxies itself: uvicorn would trust every process of this machine.
        "proxy_headers": False,
        "reload": reload,
        **websocket_protocol.UVICORN_OPTIONS,
        # Far above our own limit, which sends a clear error; this one only bounds memory.
        "ws_max_size": 4 * options.max_message,
        "timeout_keep_alive": options.keep_alive_timeout,
        "timeout_graceful_shutdown": 10,
        # A worker does not respond while it imports modules, which takes more than the default 5 s on a busy machine.
        "timeout_worker_healthcheck": 60,
        "log_config": logs.build_logging_config(options.log_format, options.log_level),
        "access_log": options.log_level in ("debug", "info"),
    }
    if options.workers > 1 and not reload:
        config = uvicorn.Config(APPLICATION, **uvicorn_options)
        WorkerSupervisor(config, copy_listener(config.bind_socket()), options.shutdown_delay).run()
        return
    try:
        if reload:
            uvicorn.run(APPLICATION, **uvicorn_options)
            return
        config = uvicorn.Config(APPLICATION, **uvicorn_options)
        server = uvicorn.Server(config)
        server.run(copy_listener(config.bind_socket()))
        if not server.started:
            sys.exit(STARTUP_FAILURE)
    except KeyboardInterrupt:
        # Likewise after SIGINT.
        pass
    except SystemExit as exit_error:
        # A graceful shutdown after SIGTERM is a success, as with several workers.
        if exit_error.code != 128 + signal.SIGTERM:
            raise


def copy_listener(listener: socket.socket) -> list[socket.socket]:
    """The listening socket, several times: in each turn of its loop, uvloop accepts one connection of each.

    Under overload a turn takes long, and with a single one new connections would wait in the kernel for minutes.
    """
    return [listener, *(listener.dup() for _ in range(ACCEPTED_PER_TURN - 1))]


def _check_documents(options: Settings) -> None:
    # Fail here, with a clear message, rather than in the first worker. The supervisor of several workers needs no schema itself.
    if not options.manifest_paths():
        return
    from storefront.schema import build_document_store  # noqa: PLC0415

    try:
        build_document_store(options)
    except ManifestError as error:
        fail(str(error))
