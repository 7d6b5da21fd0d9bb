"""The application of a process that serves nothing else, as `storefront serve` gives it to Uvicorn."""

from starlette.applications import Starlette

from storefront.core.memory import pause_garbage_collection, tune_garbage_collection


def create_server() -> Starlette:
    """Import and create the application, and tune the garbage collector for serving."""
    with pause_garbage_collection():
        # Imported here: it is most of what a process does before it can serve.
        from storefront.app import create_app  # noqa: PLC0415

        app = create_app()
    tune_garbage_collection()
    return app
