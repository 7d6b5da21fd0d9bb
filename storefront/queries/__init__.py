"""Reads, one module per noun: SQL over the tables, compiled once, always for many parents at a time.

They stand below the nouns because edges ask the same questions as root fields do. They know no GraphQL.
"""
