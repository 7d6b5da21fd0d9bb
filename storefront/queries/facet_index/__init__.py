"""Facets counted in the process: bitmaps of a store's products by value, which follow the store's log.

`postings.py` has the bitmaps, `counting.py` counts facets by them as `queries/facets.py` does in SQL, `statements.py` reads the
rows that they consist of, and `indexes.py` builds the indexes of stores and brings them to the position of a request.
"""
