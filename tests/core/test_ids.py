"""Keys of rows."""

import os

from storefront.core.ids import new_id, parse_id, uuid7


def test_keys_are_distinct_and_sort_in_the_order_of_their_creation() -> None:
    keys = [new_id() if n % 2 else str(uuid7()) for n in range(10_000)]
    assert keys == sorted({*keys})
    assert all(parse_id(key) == key and key[14] == "7" and key[19] in "89ab" for key in keys)


def test_random_bits_of_a_forked_process_differ() -> None:
    new_id()
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    of_child = os.read(reader, 100).decode()
    os.close(reader)
    os.close(writer)
    # The last 60 of the random bits.
    assert of_child[20:] != new_id()[20:]
