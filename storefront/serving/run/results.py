"""Results and errors in the response format of the GraphQL specification."""

from typing import Any

from graphql import ExecutionResult, GraphQLError

from storefront.core.errors import TimedOut, Unavailable
from storefront.serving.documents.document_store import NotExecutableError
from storefront.serving.errors import format_errors, get_error_code


def is_incomplete(result: ExecutionResult) -> bool:
    """Whether a retry may find what a result lacks: an error is that of an unavailable or slow database."""
    return any(get_error_code(error) in (Unavailable.code, TimedOut.code) for error in result.errors or ())


def wrap_error(error: Exception) -> GraphQLError:
    """An exception from outside of execution, as a request error."""
    return GraphQLError(str(error), original_error=error)


def format_result(result: ExecutionResult, request_id: str) -> dict[str, Any]:
    """A result as clients get it. `data` is left out if the first error has no path: then execution did not begin."""
    extensions = {"extensions": result.extensions} if result.extensions else {}
    if not result.errors:
        return {"data": result.data, **extensions}
    data = {"data": result.data} if result.data is not None or result.errors[0].path else {}
    return {"errors": format_errors(result.errors, request_id), **data, **extensions}


def format_request_error(error: Exception, request_id: str) -> dict[str, Any]:
    """The response to a request that could not be executed."""
    errors = error.errors if isinstance(error, NotExecutableError) else [wrap_error(error)]
    return {"errors": format_errors(errors, request_id)}
