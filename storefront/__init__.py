"""A GraphQL storefront backend: a live, multi-store product catalogue on Postgres."""

__version__ = "0.1.0"
