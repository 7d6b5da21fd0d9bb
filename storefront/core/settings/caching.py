"""Settings of the response cache and of the Cache-Control header."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings


class CacheSettings(BaseSettings):
    """Caching of public responses: in the process, in browsers, and in shared caches."""

    cache: Literal["relaxed", "strict"] = Field(
        "relaxed",
        description="How cached responses are revalidated: relaxed learns of changes in other processes within the poll "
        "interval, strict queries the database for each request.",
    )
    response_cache_bytes: int = Field(
        64_000_000, ge=0, description="Maximum bytes of public responses that a process caches; 0: no response cache."
    )
    facet_index_bytes: int = Field(
        128_000_000,
        ge=0,
        description="Maximum bytes of facet indexes in a process, of stores with 1,000 products or more; 0: no facet indexes.",
    )
    cache_max_age: int = Field(
        0, ge=0, le=31_536_000, description="Cache-Control max-age of public responses, in seconds, for browsers and caches."
    )
    cache_shared_max_age: int | None = Field(
        None,
        ge=0,
        le=31_536_000,
        description="Cache-Control s-maxage, in seconds, for shared caches such as a CDN. Unset: max-age.",
    )
    cache_stale_while_revalidate: int = Field(
        0, ge=0, le=31_536_000, description="Cache-Control stale-while-revalidate, in seconds."
    )

    def cache_control(self) -> str:
        """The Cache-Control header of public responses."""
        shared_max_age, stale_seconds = self.cache_shared_max_age, self.cache_stale_while_revalidate
        directives = [
            "public",
            f"max-age={self.cache_max_age}",
            f"s-maxage={shared_max_age}" if shared_max_age is not None else "",
        ]
        # Mutually exclusive: must-revalidate forbids the use of stale responses.
        directives.append(f"stale-while-revalidate={stale_seconds}" if stale_seconds else "must-revalidate")
        return ", ".join(filter(None, directives))
