"""Batch fields: one resolver call for many parents."""

from collections.abc import Awaitable, Callable, Sequence
from inspect import Parameter, signature
from typing import Any

import strawberry

# Returns one value per parent, in the order of the parents. Called with the parents, `info`, and the field's arguments.
BatchResolver = Callable[..., Awaitable[Sequence[Any]]]


def batch_field(batch: BatchResolver, **options: Any) -> Any:
    """A Strawberry field with a batch resolver. Its GraphQL type is the annotation in its class.

    The parameters of `batch` after the parents and `info` are the field's arguments. The reference executor calls it with one
    parent at a time: `batch` should load through data loaders, which combine those calls.
    """

    async def resolver(self: Any, info: Any, **arguments: Any) -> Any:
        (value,) = await batch([self], info, **arguments)
        return value

    batch_signature = signature(batch)
    _, info, *rest = batch_signature.parameters.values()
    parent = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
    resolver.__signature__ = batch_signature.replace(parameters=[parent, info, *rest], return_annotation=batch_signature.empty)  # type: ignore[attr-defined]
    resolver.__annotations__ = {parameter.name: parameter.annotation for parameter in (info, *rest)}
    resolver.__module__, resolver.__name__, resolver.__doc__ = batch.__module__, batch.__name__, batch.__doc__
    resolver.batch = batch  # type: ignore[attr-defined]
    return strawberry.field(resolver=resolver, **options)


def get_batch_resolver(resolver: Any) -> BatchResolver | None:
    """The batch resolver behind a resolver that `batch_field` created; None for any other."""
    batch: BatchResolver | None = getattr(resolver, "batch", None)
    return batch
