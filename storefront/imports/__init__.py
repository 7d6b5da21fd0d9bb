"""Catalogues from files of other shops, brought into one store."""
