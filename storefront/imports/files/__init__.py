"""Opening of uploaded files of any container and encoding as UTF-8 text."""
