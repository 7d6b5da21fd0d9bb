"""The documents of the benchmarks are valid against the schema."""

import pytest
from graphql import parse, validate

from benchmarks.works import Storefront
from storefront.schema import schema


@pytest.mark.parametrize("work", Storefront.documents)
def test_benchmark_documents_are_valid(work: str) -> None:
    assert validate(schema._schema, parse(Storefront.documents[work])) == []
