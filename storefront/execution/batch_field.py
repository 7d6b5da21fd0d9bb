"""Fields that are resolved for many parents at once."""

from collections.abc import Awaitable, Callable, Sequence
from inspect import Parameter, signature
from typing import Any

import strawberry

# Values of a field for many parents, one each and in their order: called with the parents, then `info`, then the arguments.
BatchResolver = Callable[..., Awaitable[Sequence[Any]]]


def batch_field(batch: BatchResolver, **options: Any) -> Any:
    """A Strawberry field, of the type that its class annotates it with, whose values come by the batch.

    The arguments of the batch behind the parents and `info` are the field's own. Where an executor asks for one parent at a
    time the batch is of one: what it loads should come from loaders, which bring those together.
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
    """The batch that a resolver was made of."""
    batch: BatchResolver | None = getattr(resolver, "batch", None)
    return batch
