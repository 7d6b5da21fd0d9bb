"""How the garbage collector of a serving process is set."""

import gc


def settle() -> None:
    """Call once everything that stays is loaded.

    What is there by now stays: the collector need not look at it ever again, which would keep everybody waiting for a third of a
    second now and then. A request makes thousands of objects and leaves no cycles: looking for some after every 700 objects takes
    as long as answering does.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
