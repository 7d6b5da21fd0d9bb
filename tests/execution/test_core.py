"""The breadth-first executor passes graphql-core's own executor tests, from the sources of the installed version."""

import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".storefront" / "graphql-core"
RELEASE = f"graphql_core-{version('graphql-core')}"

# What does not hold, and why that is right.
LEFT_OUT = {
    # The class builds on the executor without @defer and @stream; our schema has neither.
    "subscribe_function_returns_errors_with_defer",
    "subscribe_function_returns_errors_with_stream",
    "throws_if_encountering_async_iterable_execution_with_check_sync",
    "throws_if_encountering_async_iterable_execution_without_check_sync",
    # Which of two errors is told that happen at different times and make the same place null.
    "suppresses_sibling_errors_after_a_non_null_error_bubbles",
    # One info serves all parents: its path names no places in lists.
    "it_populates_path_correctly_with_complex_types",
    # There is no recursion that could be too deep.
    "reports_a_too_deep_chain_inside_a_field_as_a_field_error",
}


@pytest.fixture(scope="module")
def sources() -> Path:
    """The unpacked source distribution, fetched once; its hash is the one that is locked."""
    folder = KEPT / RELEASE
    if not folder.exists():
        archive = KEPT / f"{RELEASE}.tar.gz"
        if not archive.exists():
            _fetch()
        with tarfile.open(archive) as opened:
            opened.extractall(KEPT, filter="data")
    return folder


def _fetch() -> None:
    locked = re.search(r"^graphql-core==.*(?:\n +--hash=.*)+", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert locked is not None
    KEPT.mkdir(parents=True, exist_ok=True)
    wanted = KEPT / "requirements.txt"
    wanted.write_text(locked[0])
    options = "--no-deps --no-binary graphql-core --no-build-isolation --require-hashes --disable-pip-version-check".split()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    fetched = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "-r", wanted, "-d", KEPT],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode:
        assert "DO NOT MATCH THE HASHES" not in fetched.stderr
        pytest.skip(f"The source distribution of graphql-core cannot be fetched: {fetched.stderr.strip()[-300:]}")


def test_graphql_core_executor_tests_pass(sources: Path, tmp_path: Path) -> None:
    used = tmp_path / "used"
    files = sorted(str(path.relative_to(sources)) for path in (sources / "tests" / "execution").glob("test_*.py"))
    options = "-c /dev/null --rootdir . -o asyncio_mode=strict -p tests_of_core -p no:cacheprovider -q -rf --tb=no".split()
    plugin = tmp_path / "tests_of_core.py"
    plugin.write_bytes((Path(__file__).parent / "core_plugin.py").read_bytes())
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=sources,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), "."]), "STOREFRONT_USED": str(used)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    failed = set(re.findall(r"^FAILED .*::(\w+)", ran.stdout, re.MULTILINE))
    assert failed == LEFT_OUT, ran.stdout[-3_000:]
    assert "error" not in ran.stdout.splitlines()[-1]
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed and int(passed[1]) > 400
    assert int(used.read_text()) > 500
