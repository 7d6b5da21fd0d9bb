"""The cost of images, each in its own process: re-encoding on confirmation, and renditions."""

import json
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from time import process_time
from typing import Any

from PIL import Image

from benchmarks.report import Cell, Table, err
from storefront.core.image_processing import process_image, resize_image

# Pictures of a telephone, and as large as may be by default.
SIZES = {"12 MP": (4_000, 3_000), "49 MP": (7_000, 7_000)}
KINDS = {"JPEG": "RGB", "PNG": "RGBA", "WEBP": "RGBA", "AVIF": "RGB"}
MADE = {"320 WebP": (320, "webp"), "1,280 WebP": (1_280, "webp"), "1,280 AVIF": (1_280, "avif")}
MOST_PIXELS = 50_000_000
# Megabytes that one may take, as the description of the setting says.
MOST_MB = 1_000


def measure() -> Iterator[Table]:
    """All kinds in all sizes."""
    rows: list[list[Cell]] = []
    most = 0.0
    for name, size in SIZES.items():
        for kind in KINDS:
            with err.status(f"{kind}, {name}"):
                found = _apart(kind, *size)
            most = max(most, found["megabytes"])
            rows.append([f"{kind}, {name}", found["sent"], found["cpu"], found["megabytes"], *found["made"]])
    mark = "✓" if most <= MOST_MB else "✗"
    note = f"""{mark} While it is made anew one takes {most:.0f} MB of memory at most, of {MOST_MB:,} that it may. CPU is that of
one thread; each size is made once. The pictures are drawn, with grain on them, and seen through where their format knows it."""
    columns = ("picture", "sent, MB", "confirmed, CPU s", "memory, MB", *(f"{name}, CPU ms" for name in MADE))
    yield Table("pictures", "Pictures", columns, rows, note)


def _apart(kind: str, width: int, height: int) -> Any:
    drawn = _drawn(kind, width, height)
    command = [sys.executable, "-m", "benchmarks.pictures", kind]
    done = subprocess.run(command, input=drawn, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout) | {"sent": len(drawn) / 1_000_000}


def _drawn(kind: str, width: int, height: int) -> bytes:
    grain = Image.effect_noise((width, height), 24).convert("RGB")
    shape = Image.effect_mandelbrot((width, height), (-3, -2.5, 2, 2.5), 20).convert("RGB")
    out = BytesIO()
    options: dict[str, Any] = {"WEBP": {"quality": 80, "method": 0}, "AVIF": {"speed": 10}}.get(kind, {})
    Image.blend(shape, grain, 0.15).convert(KINDS[kind]).save(out, kind, **options)
    return out.getvalue()


def _seconds_of(work: Any) -> tuple[float, Any]:
    began = process_time()
    result = work()
    return process_time() - began, result


def _megabytes() -> float:
    # The peak memory of this process; getrusage would include its parent's.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1_024 / 1_000_000


def _worked(kind: str, content: bytes) -> dict[str, Any]:
    before = _megabytes()
    cpu, made = _seconds_of(lambda: process_image(content, f"image/{kind.lower()}", MOST_PIXELS))
    megabytes = _megabytes() - before
    sizes = [_seconds_of(lambda one=one: resize_image(made.content, *one))[0] * 1_000 for one in MADE.values()]
    return {"cpu": cpu, "megabytes": megabytes, "made": sizes}


if __name__ == "__main__":
    print(json.dumps(_worked(sys.argv[1], sys.stdin.buffer.read())))
