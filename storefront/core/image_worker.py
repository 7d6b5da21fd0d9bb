"""Processes images one after the other: a program of its own, because decoders and encoders hold the GIL for up to a second.

`python -m storefront.core.image_worker` reads tasks from its standard input and writes results to its standard output. Each is
a line of JSON, which has the `size` of the bytes after it, and these bytes. It ends at the end of its input.
"""

import resource
import sys
from dataclasses import asdict
from typing import Any

import orjson

from storefront.core.image_processing import UnusableImageError, process_image, resize_image

# Bytes of memory of this process. The largest image takes a third of it.
MAX_MEMORY_BYTES = 3_000_000_000


def main() -> int:
    """Work on all tasks."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    while line := sys.stdin.buffer.readline():
        task = orjson.loads(line)
        content = sys.stdin.buffer.read(task["size"])
        try:
            result, output = work_on(task, content)
        except UnusableImageError as error:
            result, output = {"problem": str(error)}, b""
        sys.stdout.buffer.write(orjson.dumps({**result, "size": len(output)}) + b"\n" + output)
        sys.stdout.buffer.flush()
    return 0


def work_on(task: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    """The result of one task, and its bytes. Raises UnusableImageError."""
    if "width" in task:
        return {}, resize_image(content, task["width"], task["extension"])
    result = asdict(process_image(content, task["contentType"], task["maxPixels"]))
    return result, result.pop("content")


if __name__ == "__main__":
    sys.exit(main())
