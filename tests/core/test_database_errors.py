"""Which database errors are transient and may be retried."""

import pytest
from psycopg import errors

from storefront.core.db.database import is_transient
from storefront.core.errors import TimedOut, Unavailable


@pytest.mark.parametrize("state", ["22021", "22P05", "22003", "22001", "23514", "23505", "23503", "54000", "54001"])
def test_data_errors_are_not_transient(state: str) -> None:
    assert not is_transient(errors.lookup(state)())


@pytest.mark.parametrize("state", ["08006", "40001", "40P01", "53300", "53100", "55P03", "57014", "57P01", "25006"])
def test_resource_and_conflict_errors_are_transient(state: str) -> None:
    assert is_transient(errors.lookup(state)())


def test_pool_timeout_is_transient() -> None:
    assert is_transient(TimedOut("too long")) and is_transient(Unavailable("too many"))
    assert not is_transient(ValueError("a fault of ours"))
