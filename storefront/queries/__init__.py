"""Queries, one module per entity: SQL that is compiled once and takes many parents at a time.

Root fields and nested fields share them. They do not depend on GraphQL.
"""
