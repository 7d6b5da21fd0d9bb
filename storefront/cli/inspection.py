"""Commands that only read: the schema, a check of the set-up, the state of webhooks."""

import asyncio
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.markup import escape

from storefront import doctor as checkup
from storefront.cli.support import check_migrations, fail, load_settings, out, run_with_database, running_postgres
from storefront.core.db.database import Row
from storefront.queries import configs, webhooks

app = typer.Typer()


@app.command()
def schema(
    federation: Annotated[
        bool, typer.Option("--federation", help="Print the schema as a subgraph of a federated graph.")
    ] = False,
) -> None:
    """Print the GraphQL schema (SDL)."""
    # Other commands of this module do not wait until the schema is built.
    from storefront.graph.federation import print_subgraph  # noqa: PLC0415
    from storefront.schema import schema as graphql_schema  # noqa: PLC0415

    sdl = graphql_schema.as_str()
    print(print_subgraph(sdl) if federation else sdl)


@app.command()
def doctor(
    development: Annotated[
        bool, typer.Option("--development", help="Leave out what only production needs, such as secrets of its own.")
    ] = False,
) -> None:
    """Check whether the set-up works and is fit for production. Exits with 1 if it is not, and says how to correct it."""
    options = load_settings()
    with running_postgres(options) as url:
        database_findings = [*checkup.check_database(url)]
        if not any(finding.remedy for finding in database_findings):
            database_findings.append(asyncio.run(checkup.check_users(url)))
            database_findings += [] if development else [checkup.check_backups(url)]
        findings = [
            checkup.describe_settings(options, url),
            *database_findings,
            *(() if development else checkup.check_production(options)),
            asyncio.run(checkup.check_storage(options)),
            asyncio.run(checkup.check_broadcaster(options, url)),
            asyncio.run(checkup.check_rate_limits(options)),
            checkup.check_clients(options, in_production=not development),
            checkup.check_documents(options),
            checkup.check_observability(options),
            checkup.check_graphiql(),
            checkup.check_dashboard(),
        ]
    for finding in findings:
        _print_finding(finding)
    failed = [finding.subject for finding in findings if finding.remedy]
    purpose = "development" if development else "production"
    out.print(f"\nNot fit for {purpose}: {', '.join(failed)}." if failed else f"\nFit for {purpose}.")
    raise typer.Exit(bool(failed))


def _print_finding(finding: checkup.Finding) -> None:
    mark = "[red]✗[/red]" if finding.remedy else "[yellow]![/yellow]" if finding.advice else "[green]✓[/green]"
    out.print(f"{mark} {finding.subject:<12} {escape(finding.state)}")
    for words in filter(None, (finding.remedy, finding.advice)):
        out.print(f"  → {escape(words)}")


@app.command("webhooks")
def webhooks_(
    store: Annotated[str | None, typer.Option(help="The slug of one store. Default: all stores.")] = None,
    most: Annotated[
        int, typer.Option("--most", min=1, max=10_000, help="Maximum number of webhooks shown, failing ones first.")
    ] = 50,
) -> None:
    """Show the backlog and the failures of webhooks."""
    with running_postgres(load_settings()) as url:
        check_migrations(url)
        if store is not None and run_with_database(url, lambda database: configs.find_store_id_by_slug(database, store)) is None:
            fail(f"There is no store with the slug {store!r}.")
        _print_webhooks(run_with_database(url, lambda database: webhooks.load_webhook_overview(database, store, most)))


def _print_webhooks(webhook_rows: Sequence[Row]) -> None:
    for hook in webhook_rows:
        # Path and query may hold a secret of the receiver: only the host is printed.
        host = urlsplit(hook.url).netloc
        state = "disabled" if hook.disabled_at else "resting" if hook.resting_until else "failing" if hook.failures else "well"
        backlog = f"{hook.unread:,} entries unread, {hook.pending:,} waiting" + (f" since {hook.oldest}" if hook.oldest else "")
        out.print(f"{hook.slug}  {hook.id}  {host}  {state}; {backlog}", markup=False, highlight=False)
        problem = hook.disabled_reason or (f"failing since {hook.failing_since}: {hook.error}" if hook.failing_since else None)
        if problem:
            out.print(f"  → {problem}", markup=False, highlight=False)
    out.print(f"{len(webhook_rows):,} webhooks.")
