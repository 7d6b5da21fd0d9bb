"""An embedded Postgres: its data folder, its system account, its socket, starting and stopping its processes."""

import hashlib
import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from signal import Signals
from typing import IO

import psutil

from storefront.core.db.postgres_binaries import (
    MAJOR_VERSION,
    copy_programs,
    find_copied_programs,
    find_installed_programs,
    find_temporary_folder_paths,
    has_shell_syntax,
    remove_temporary_folder,
)
from storefront.core.private_files import open_private

SUPERUSER, APPLICATION_ROLE = "postgres", "storefront"
PORT = 5432
# Postgres refuses to run as root. A process of root runs it as this account, which is created if it is missing.
SYSTEM_ACCOUNT = "pgserver"
START_TIMEOUT_SECONDS = 300
# The signals that stop a server (fast, immediate, by force), each with its timeout in seconds.
STOP_SIGNALS = (Signals.SIGINT, 60), (Signals.SIGQUIT, 10), (Signals.SIGKILL, 10)
ORPHANS_TIMEOUT_SECONDS = 1
# `sun_path` has 104 bytes on macOS and 108 on Linux, including the final zero.
MAX_SOCKET_PATH_BYTES = 103

_SOCKET_NAME = f".s.PGSQL.{PORT}"
_STALE_FILES = ("postmaster.pid", _SOCKET_NAME, f"{_SOCKET_NAME}.lock")
# A path to the working folder that works even without permission to enter the folders above it.
_WORKING_FOLDER_LINK = "/proc/self/cwd"
# Paths that need no quoting in URLs, for all clients.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._-]*")
_INHERITED_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ", "TZDIR")
_LOG_PREFIX = re.compile(r"^[0-9-]+ [0-9:.]+ \S+ \[\d+\] ")
_ERROR_LINE = re.compile(r"\b(?:FATAL|PANIC|ERROR|error):")
_MAX_REASON_CHARACTERS = 500
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class EmbeddedPostgresError(RuntimeError):
    """The embedded Postgres cannot run. The message has the reason and the fix."""


class Cluster:
    """An embedded Postgres in `data_dir`/postgres. Callers must hold a lock while they start or stop it."""

    def __init__(self, data_dir: Path) -> None:
        data_folder = data_dir / "postgres"
        self._is_link = data_folder.is_symlink()
        self.folder = data_folder.resolve()
        self.log_path = data_dir / "postgres.log"
        # Exists while initdb runs: after a crash it marks an incomplete data folder.
        self._initdb_marker = data_dir / "postgres.unfinished"
        # While the server runs: a symlink to a temporary folder, where socket or programs are not usable at their own paths.
        self._runtime_link = data_dir / "postgres.runtime"
        self._programs_folder = find_installed_programs()

    @property
    def socket_folder(self) -> Path:
        """The folder of the socket, by a path that fits into a socket address and needs no quoting in URLs."""
        return self.folder if _is_plain_socket_path(self.folder) else self._runtime_link.readlink() / "data"

    def is_listening(self) -> bool:
        """Whether a server accepts connections on the socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            try:
                client.connect(str(self.socket_folder / _SOCKET_NAME))
            except OSError:
                return False
            return True

    def start(self, lock: int, *, is_first: bool) -> None:
        """Start the server, after removing stale files of dead processes.

        `lock`: the file descriptor of the lock that this process holds; `is_first`: no other process uses the server now.
        Raises EmbeddedPostgresError, and OSError for folders that cannot be read or written.
        """
        self._open_folder()
        self._stop_processes()
        if is_first or not self._runtime_link.exists():
            self._remove_runtime_folder()
            self._make_runtime_folder()
        else:
            self._programs_folder = find_copied_programs(self._runtime_link.readlink()) or self._programs_folder
        try:
            self._check_that_nothing_listens()
            self._remove_stale_files()
            self._run_initdb(lock)
            self._write_authentication()
            self._launch_server()
        except BaseException:
            self._stop_processes()
            if is_first:
                self._remove_runtime_folder()
            raise

    def stop(self) -> None:
        """Stop the server, and remove its runtime files."""
        self._stop_processes()
        self._remove_stale_files()
        self._remove_runtime_folder()

    def _check_that_nothing_listens(self) -> None:
        # Local processes were stopped. A server that still listens runs elsewhere, on a shared folder: do not overwrite it.
        if self.is_listening():
            raise EmbeddedPostgresError(
                f"A Postgres that is not a process of this system listens in {self.folder}, perhaps in another container. "
                "Stop it there."
            )

    # ----------------------------------------------------------------------------------------- data folder

    def _open_folder(self) -> None:
        """Create the data folder, or check that it is usable."""
        with suppress(FileExistsError):
            self.folder.mkdir(mode=0o700)
        self._check_user()
        is_initialised = self._read_version() is not None
        descriptor = os.open(self.folder, _FOLDER_FLAGS)
        try:
            if os.fstat(descriptor).st_uid == 0:
                self._check_folder_is_new(is_initialised)
                account = _ensure_system_account()
                os.fchown(descriptor, account.pw_uid, account.pw_gid)
            os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)

    def _read_version(self) -> str | None:
        """The Postgres version of the data; None for an empty folder. Raises EmbeddedPostgresError where it is unusable."""
        if self._initdb_marker.exists():
            _clear_folder(self.folder)
        try:
            version = (self.folder / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            if any(self.folder.iterdir()):
                raise EmbeddedPostgresError(
                    f"{self.folder} is not empty, and is not a data folder of Postgres. "
                    "Move it away, or set STOREFRONT_DATA_DIR to another folder."
                ) from None
            return None
        if version != str(MAJOR_VERSION):
            raise EmbeddedPostgresError(
                f"{self.folder} was created by Postgres {version[:20]}, and this release includes Postgres {MAJOR_VERSION}. "
                "To keep the data, dump it with the release that created it (pg_dump) and restore it here. "
                "To start with an empty database, move the folder away."
            )
        return version

    def _check_user(self) -> None:
        user, owner = os.geteuid(), self.folder.stat().st_uid
        if _get_user_name(user) is None:
            raise EmbeddedPostgresError(
                f"The user id {user} has no name on this system, and Postgres needs one. "
                "Add it to /etc/passwd, or start as another user."
            )
        if user not in (0, owner):
            raise EmbeddedPostgresError(
                f"{self.folder} belongs to {_get_user_name(owner) or owner}, and this is {_get_user_name(user)}. "
                "Start as that user, or set STOREFRONT_DATA_DIR to a folder of your own."
            )

    def _check_folder_is_new(self, is_initialised: bool) -> None:
        if is_initialised or self._is_link:
            raise EmbeddedPostgresError(
                f"{self.folder} belongs to root, and Postgres does not run as root. "
                f"Give it to an account of its own: chown -R {SYSTEM_ACCOUNT} {shlex.quote(str(self.folder))}"
            )

    def _run_initdb(self, lock: int) -> None:
        if (self.folder / "PG_VERSION").exists():
            return
        self._initdb_marker.touch(mode=0o600)
        options = "--no-locale", "--encoding=UTF8", "--auth=reject", f"--username={SUPERUSER}", "--no-instructions"
        # initdb inherits the lock: if this process is killed, the next one waits for initdb to end before it clears the folder.
        result = self._run_program("initdb", *options, inherited_descriptors=(lock,))
        if result.returncode:
            raise self._build_error("could not create its data folder", result.stdout)
        self._initdb_marker.unlink()

    def _write_authentication(self) -> None:
        # Peer authentication: the kernel reports the connecting user, and there is no password to leak.
        owner = _get_user_name(self.folder.stat().st_uid)
        users = {_get_user_name(os.geteuid()), _get_user_name(0), None if owner == SYSTEM_ACCOUNT else owner} - {None}
        quoted_users = ['"{}"'.format(str(user).replace('"', '""')) for user in sorted(map(str, users))]
        user_mappings = [f"storefront {user} {role}\n" for user in quoted_users for role in (APPLICATION_ROLE, SUPERUSER)]
        self._replace_file("pg_hba.conf", f"local all {SUPERUSER},{APPLICATION_ROLE} peer map=storefront\n")
        self._replace_file("pg_ident.conf", "".join(user_mappings))

    def _replace_file(self, name: str, text: str) -> None:
        """Replace a file in the data folder atomically. Symlinks are not followed: this process may be root."""
        folder = os.open(self.folder, _FOLDER_FLAGS)
        temporary_name = f"{name}.new"
        try:
            with suppress(FileNotFoundError):
                os.unlink(temporary_name, dir_fd=folder)
            with open(os.open(temporary_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder), "w") as file:
                file.write(f"# Rewritten at every start of the embedded Postgres: changes are lost.\n{text}")
                os.fchown(file.fileno(), *self._get_owner())
            os.rename(temporary_name, name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(folder)

    def _remove_stale_files(self) -> None:
        for name in _STALE_FILES:
            (self.folder / name).unlink(missing_ok=True)

    # -------------------------------------------------------------------------------------- runtime folder

    def _make_runtime_folder(self) -> None:
        """Create a temporary folder where programs or socket are not usable at their own paths."""
        reason = self._try_programs()
        if not reason and _is_plain_socket_path(self.folder):
            return
        needs_copy = bool(reason)
        for path in find_temporary_folder_paths():
            if _is_plain_socket_path(path / "data"):
                reason = self._try_runtime_folder(path, needs_copy=needs_copy)
                if not reason:
                    return
                self._remove_runtime_folder()
        purpose = "runs its programs from" if needs_copy else "reaches its socket through"
        raise EmbeddedPostgresError(
            f"The embedded Postgres {purpose} a temporary folder, and none can be used"
            + (f" ({reason[:_MAX_REASON_CHARACTERS]})" if reason else "")
            + ". Set TMPDIR to a folder with a short path that every user can enter and programs can run from."
        )

    def _try_runtime_folder(self, path: Path, *, needs_copy: bool) -> str:
        """Create a temporary folder; returns why it is not usable, or an empty string."""
        # The symlink comes first, so that the folder of a killed process is found and removed.
        self._runtime_link.symlink_to(path)
        try:
            path.mkdir(mode=0o700)
            (path / "data").symlink_to(self.folder)
            if needs_copy:
                self._programs_folder = copy_programs(path)
                # The server's user may enter the folder, but not list it.
                path.chmod(0o711)
        except OSError as error:
            return str(error)
        return self._try_programs()

    def _remove_runtime_folder(self) -> None:
        with suppress(FileNotFoundError):
            remove_temporary_folder(self._runtime_link.readlink())
            self._runtime_link.unlink()

    # --------------------------------------------------------------------------------------------- processes

    def _try_programs(self) -> str:
        """Why the programs cannot run; an empty string where they can."""
        if has_shell_syntax(self._programs_folder):
            return f"{self._programs_folder} has characters that shells interpret"
        try:
            result = self._run_program("initdb", "--version")
        except OSError as error:
            return str(error)
        return str(result.stdout) if result.returncode else ""

    def _run_program(
        self, program: str, *arguments: str, stdout: int | IO[str] = subprocess.PIPE, inherited_descriptors: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the data folder, as the folder's owner."""
        uid, gid = self._get_owner() if os.geteuid() == 0 else (None, None)
        environment = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
        folder = _WORKING_FOLDER_LINK if os.path.exists(_WORKING_FOLDER_LINK) else str(self.folder)
        return subprocess.run(
            [str(self._programs_folder / program), *arguments],
            check=False,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            pass_fds=inherited_descriptors,
            cwd=self.folder,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            umask=0o077,
            # English messages: the reason of a failure is extracted from them.
            env={"PATH": os.defpath, **environment, "LC_ALL": "C", "PGDATA": folder},
        )

    def _get_owner(self) -> tuple[int, int]:
        """The uid and gid that own the server's files and run its processes."""
        status = self.folder.stat()
        try:
            return status.st_uid, pwd.getpwuid(status.st_uid).pw_gid
        except KeyError:
            return status.st_uid, status.st_gid

    def _launch_server(self) -> None:
        settings = {
            "listen_addresses": "",
            "port": str(PORT),
            # In the data folder, which no other user may enter. A relative path, because a socket address is short.
            "unix_socket_directories": ".",
            "unix_socket_permissions": "0700",
            "cluster_name": self._cluster_name,
        }
        options = shlex.join(argument for name, value in settings.items() for argument in ("-c", f"{name}={value}"))
        wait_options = "--wait", f"--timeout={START_TIMEOUT_SECONDS}"
        with open(self.log_path, "w", opener=_open_private) as log:
            result = self._run_program("pg_ctl", "start", *wait_options, "--options", options, stdout=log)
        if result.returncode:
            raise self._build_error(f"did not start (its log is {self.log_path})", self.log_path.read_text(errors="replace"))

    def _build_error(self, problem: str, output: str) -> EmbeddedPostgresError:
        lines = [_LOG_PREFIX.sub("", line.strip()) for line in output.splitlines() if line.strip()]
        errors = [number for number, line in enumerate(lines) if _ERROR_LINE.search(line)]
        # Include the line before the error, which may have details, and the one after, which may be a hint.
        excerpt = lines[max(0, errors[0] - 1) : errors[0] + 2] if errors else lines[-1:]
        reason = " ".join(excerpt) or f"it wrote no log, and the disk has {shutil.disk_usage(self.folder).free:,} bytes left"
        return EmbeddedPostgresError(f"The embedded Postgres in {self.folder} {problem}: {reason[:_MAX_REASON_CHARACTERS]}")

    @property
    def _cluster_name(self) -> str:
        """Identifies the processes of this cluster by their command lines. A copy of the folder has another name."""
        status = self.folder.stat()
        return f"storefront-{hashlib.sha256(f'{status.st_dev}:{status.st_ino}'.encode()).hexdigest()[:16]}"

    def _stop_processes(self) -> None:
        for stop_signal, seconds in STOP_SIGNALS:
            processes = self._find_processes()
            if not processes:
                return
            # The postmaster stops its children. Orphans of a killed one stop by themselves, or are killed.
            postmasters = [process for process in processes if _is_postmaster(_read_command_line(process))]
            for process in postmasters if stop_signal == Signals.SIGINT else processes:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(stop_signal)
            _wait_for_exit(processes, seconds if postmasters else ORPHANS_TIMEOUT_SECONDS)
        if self._find_processes():
            raise EmbeddedPostgresError(f"The processes of the Postgres in {self.folder} survive SIGKILL. Start again later.")

    def _find_processes(self) -> list[psutil.Process]:
        """The processes of this cluster, found by their command lines: process ids are reused."""
        if not (self.folder / "postmaster.pid").exists() and not self.is_listening():
            return []
        name, owner = self._cluster_name, self.folder.stat().st_uid
        owned_processes = [
            process for process in psutil.process_iter(["uids"]) if process.info["uids"] and process.info["uids"].real == owner
        ]
        return [process for process in owned_processes if _is_cluster_process(_read_command_line(process), name, self.folder)]


def _is_cluster_process(command_line: Sequence[str], name: str, folder: Path) -> bool:
    if not command_line:
        return False
    # Older releases started the postmaster with the path of the folder: it may still run.
    is_older_release = any(pair == ("-D", str(folder)) for pair in pairwise(command_line))
    is_ours = is_older_release or f"cluster_name={name}" in command_line
    return (_is_postmaster(command_line) and is_ours) or command_line[0].startswith(f"postgres: {name}: ")


def _is_postmaster(command_line: Sequence[str]) -> bool:
    # Child processes replace their command lines by their status.
    return bool(command_line) and os.path.basename(command_line[0]) == "postgres"


def _read_command_line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def _wait_for_exit(processes: Sequence[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(_is_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.01)


def _is_alive(process: psutil.Process) -> bool:
    # A zombie counts as dead: in a container, possibly no process reaps it.
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _is_plain_socket_path(folder: Path) -> bool:
    """Whether the path of a socket in this folder fits into a socket address and needs no quoting in URLs."""
    path = str(folder / _SOCKET_NAME)
    return len(path) <= MAX_SOCKET_PATH_BYTES and _PLAIN_PATH.fullmatch(path) is not None


def _clear_folder(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def _open_private(path: str, flags: int) -> int:
    return open_private(path, flags | os.O_NOFOLLOW)


def _get_user_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _ensure_system_account() -> pwd.struct_passwd:
    """The account that runs Postgres for a process of root; created if missing."""
    command = "useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"
    reason = ""
    for _ in range(5):
        try:
            return pwd.getpwnam(SYSTEM_ACCOUNT)
        except KeyError:
            pass
        try:
            result = subprocess.run([*command, SYSTEM_ACCOUNT], capture_output=True, text=True, check=False)
        except OSError as error:
            reason = str(error)
            break
        if result.returncode:
            # Another process may be creating it at the same time.
            reason = result.stderr.strip()
            time.sleep(0.2)
    raise EmbeddedPostgresError(
        f"Postgres does not run as root, and the account {SYSTEM_ACCOUNT} for it cannot be created: {reason}. "
        "Create it, or start as another user."
    )
