"""Commands for background work that the server also does itself, and for the rotation of encryption keys."""

from functools import partial
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from storefront.analytics.commands import refresh_popularity
from storefront.analytics.rollups import roll_up
from storefront.cli.support import check_migrations, err, fail, load_settings, out, run_with_database, running_postgres
from storefront.configs.secret_rotation import RotationSummary, rotate_stored_secrets
from storefront.core.db.database import Database
from storefront.core.encryption import Vault
from storefront.core.storage.factory import create_object_storage
from storefront.media.garbage_collection import sweep_images, sweep_orphaned_objects
from storefront.writes.search_documents import rebuild_search_documents

app = typer.Typer()


@app.command("refresh-popularity")
def refresh_popularity_() -> None:
    """Recompute the popularity of products. The server does this itself every STOREFRONT_POPULARITY_INTERVAL seconds."""
    with running_postgres(load_settings()) as url:
        check_migrations(url)
        out.print(f"{run_with_database(url, refresh_popularity):,} products have another popularity now.")


@app.command("roll-up")
def roll_up_() -> None:
    """Roll up new analytics events. The server does this itself every STOREFRONT_ROLLUP_INTERVAL seconds."""
    with running_postgres(load_settings()) as url:
        check_migrations(url)
        out.print(f"Counted {run_with_database(url, partial(roll_up, wait=True)):,} batches of events.")


@app.command("sweep-images")
def sweep_images_(
    strays: Annotated[
        bool, typer.Option("--strays", help="Remove orphaned objects, too, which no row refers to: after restoring a backup.")
    ] = False,
) -> None:
    """Remove images that no product has used for a day, and old uploads. The server does this itself every hour."""

    async def sweep_all(database: Database) -> int:
        objects = create_object_storage(load_settings())
        async with objects.running():
            swept = await sweep_images(database, objects)
            return swept + (await sweep_orphaned_objects(database, objects) if strays else 0)

    with running_postgres(load_settings()) as url:
        check_migrations(url)
        out.print(f"Removed {run_with_database(url, sweep_all):,} images, uploads and strays.")


@app.command("rebuild-search")
def rebuild_search() -> None:
    """Rebuild the search documents of all products: after SQL that bypasses the commands has changed what is searched."""
    with running_postgres(load_settings()) as url:
        check_migrations(url)
        out.print(f"Rebuilt {run_with_database(url, rebuild_search_documents):,} search documents.")


@app.command("rotate-secrets")
def rotate_secrets() -> None:
    """Re-encrypt the stores' secrets with the newest of STOREFRONT_ENCRYPTION_KEYS. Safe to run again at any time."""
    with running_postgres(load_settings()) as url:
        check_migrations(url)
        _print_rotation(_rotate_with_progress(url, load_settings().load_vault()))


def _rotate_with_progress(url: str, vault: Vault) -> RotationSummary:
    with Progress(TextColumn("stores"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=err) as bars:
        bar = bars.add_task("stores", total=None)

        def update_bar(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        return run_with_database(url, lambda database: rotate_stored_secrets(database, vault, update_bar))


def _print_rotation(rotation: RotationSummary) -> None:
    out.print(f"{rotation.rotated:,} secrets are encrypted anew; {rotation.current:,} were under the newest key already.")
    if rotation.unreadable:
        example_stores = ", ".join(rotation.unreadable[:10])
        fail(
            f"{len(rotation.unreadable):,} open with none of the keys and were left as they are, in the stores {example_stores}. "
            "Add the key that they were encrypted with, or have their owners connect again."
        )
