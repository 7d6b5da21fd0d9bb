"""What the benchmarks ask for is still there to be asked for."""

import pytest
from graphql import parse, validate

from benchmarks.works import Storefront
from storefront.schema import schema


@pytest.mark.parametrize("work", Storefront.documents)
def test_the_documents_of_the_standard_works_are_valid(work: str) -> None:
    assert validate(schema._schema, parse(Storefront.documents[work])) == []
