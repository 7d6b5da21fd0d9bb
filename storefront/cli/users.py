"""Commands for users: issue tokens, sign users out, merge two users."""

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from storefront.cli.support import check_migrations, err, fail, load_settings, out, run_with_database, running_postgres
from storefront.core.auth.tokens import Claims, sign_token
from storefront.core.db.database import Database
from storefront.core.settings import Settings
from storefront.users.administration import (
    MergeRejectedError,
    UserNotFoundError,
    ensure_own_claims,
    find_or_create_user,
    find_user,
    merge_users,
)
from storefront.users.commands import sign_out

T = TypeVar("T")

app = typer.Typer()

DAY_SECONDS = 86_400
_EMAIL_HELP = "The user's verified address."
_USER_ID_HELP = "The user's id, instead of the address."


@app.command()
def token(
    email: Annotated[str | None, typer.Option(help=f"{_EMAIL_HELP} A user is created if none has it.")] = None,
    user: Annotated[str | None, typer.Option(help=_USER_ID_HELP)] = None,
    days: Annotated[int, typer.Option(min=1, max=3_650, help="Lifetime of the token in days.")] = 30,
) -> None:
    """Print a bearer token for a user."""
    _require_email_or_user(email, user)
    with running_postgres(load_settings()) as url:
        check_migrations(url)
        print(issue_token(load_settings(), url, email, user, days))


@app.command("sign-out")
def sign_out_(
    email: Annotated[str | None, typer.Option(help=_EMAIL_HELP)] = None,
    user: Annotated[str | None, typer.Option(help=_USER_ID_HELP)] = None,
) -> None:
    """Sign a user out everywhere: revoke the credentials issued to them so far, and close their WebSockets."""
    _require_email_or_user(email, user)

    async def sign_out_user(database: Database) -> None:
        await sign_out(database, await find_user(database, email=email, user_id=user))

    with running_postgres(load_settings()) as url:
        check_migrations(url)
        _run_for_user(url, sign_out_user)
        out.print("Signed out everywhere.")


@app.command("merge-users")
def merge_users_(
    keep: Annotated[str, typer.Argument(help="The id of the user who receives everything of the other one.")],
    other: Annotated[str, typer.Argument(help="The id of the user who is deleted afterwards.")],
) -> None:
    """Merge two users of the same person into one. Verify that they are the same person: it cannot be undone."""
    with running_postgres(load_settings()) as url:
        check_migrations(url)
        moved = _run_for_user(url, lambda database: merge_users(database, keep, other))
        out.print("Merged. Moved " + (", ".join(f"{count:,} of {name}" for name, count in moved.items()) or "nothing") + ".")


def issue_token(options: Settings, url: str, email: str | None, user_id: str | None, days: int) -> str:
    """A bearer token for the user with this address, who is created if missing, or with this id."""

    async def find_claims(database: Database) -> tuple[Claims, float]:
        if email is None:
            return await ensure_own_claims(database, await find_user(database, user_id=user_id))
        found_id, is_new = await find_or_create_user(database, email)
        if is_new:
            err.print(f"No user had the address {email.strip()}: created one.", markup=False, highlight=False)
        return await ensure_own_claims(database, found_id)

    claims, database_time = _run_for_user(url, find_claims)
    return sign_token(claims, options.load_signing_secret(), seconds=days * DAY_SECONDS, database_time=database_time)


def _require_email_or_user(email: str | None, user: str | None) -> None:
    if (email is None) == (user is None):
        fail("Name the user with either --email or --user.")


def _run_for_user(url: str, action: Callable[[Database], Awaitable[T]]) -> T:
    try:
        return run_with_database(url, action)
    except (UserNotFoundError, MergeRejectedError) as error:
        fail(str(error))
