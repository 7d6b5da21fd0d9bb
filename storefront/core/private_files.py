"""Files that no other user can read or write, whatever the umask is."""

import os


def open_private(path: str, flags: int) -> int:
    """An `opener` for `open`: a new file has mode 0600 from the start."""
    return os.open(path, flags, 0o600)
