"""The files and processes of an embedded Postgres: who runs it, where its socket is, its start and its stop."""

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
    copied_programs,
    copy_programs,
    has_shell_syntax,
    installed_programs,
    remove_temporary_folder,
    temporary_folder_paths,
)

SUPERUSER, APPLICATION_ROLE = "postgres", "storefront"
PORT = 5432
# Postgres refuses to run as root: then it runs as this account, which is made if it is missing.
SYSTEM_ACCOUNT = "pgserver"
START_TIMEOUT_SECONDS = 300
# How a server is stopped, and how long each signal may take: after a checkpoint, without one, by force.
STOP_SIGNALS = (Signals.SIGINT, 60), (Signals.SIGQUIT, 10), (Signals.SIGKILL, 10)
ORPHANS_TIMEOUT_SECONDS = 1
# The address of a Unix socket has 104 bytes on macOS and 108 on Linux, with a zero at the end.
MAX_SOCKET_PATH_BYTES = 103

_SOCKET = f".s.PGSQL.{PORT}"
_LEFTOVERS = ("postmaster.pid", _SOCKET, f"{_SOCKET}.lock")
# By this path a process reaches its working folder even where it may not enter the folders above it.
_WORKING_FOLDER = "/proc/self/cwd"
# What URLs and all the clients that read them take for one path.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._-]*")
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ", "TZDIR")
_LOG_PREFIX = re.compile(r"^[0-9-]+ [0-9:.]+ \S+ \[\d+\] ")
_ERROR_LINE = re.compile(r"\b(?:FATAL|PANIC|ERROR|error):")
_MAX_REASON_CHARACTERS = 500
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class EmbeddedPostgresError(RuntimeError):
    """The embedded Postgres cannot run. The message says why, and what to do."""


class Cluster:
    """An embedded Postgres in `data_dir`/postgres. Callers hold a lock while they start or stop it."""

    def __init__(self, data_dir: Path) -> None:
        place = data_dir / "postgres"
        self._is_link = place.is_symlink()
        self.folder = place.resolve()
        self.log = data_dir / "postgres.log"
        # There while initdb runs: what it left behind when it was killed is no data.
        self._unfinished = data_dir / "postgres.unfinished"
        # Leads to a temporary folder with what cannot be reached where it is, while the server runs.
        self._runtime = data_dir / "postgres.runtime"
        self._programs = installed_programs()

    @property
    def socket_folder(self) -> Path:
        """The folder of the socket, by a path that the address of a socket and a URL can hold."""
        return self.folder if _is_plain(self.folder) else self._runtime.readlink() / "data"

    def is_listening(self) -> bool:
        """Whether a server takes connections in the folder."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            try:
                client.connect(str(self.socket_folder / _SOCKET))
            except OSError:
                return False
            return True

    def start(self, lock: int, *, is_first: bool) -> None:
        """Start the server, after clearing what dead processes left.

        `lock` is the descriptor of the lock that this process holds; `is_first`: no other process uses the server now.
        Raises EmbeddedPostgresError, and OSError for folders that cannot be read or written.
        """
        self._open_folder()
        self._stop_processes()
        if is_first or not self._runtime.exists():
            self._remove_runtime()
            self._make_runtime()
        else:
            self._programs = copied_programs(self._runtime.readlink()) or self._programs
        try:
            self._check_that_nothing_listens()
            self._remove_leftovers()
            self._initialise(lock)
            self._write_authentication()
            self._launch()
        except BaseException:
            self._stop_processes()
            if is_first:
                self._remove_runtime()
            raise

    def stop(self) -> None:
        """Stop the server, and remove what was there only while it ran."""
        self._stop_processes()
        self._remove_leftovers()
        self._remove_runtime()

    def _check_that_nothing_listens(self) -> None:
        # Processes of this system were stopped. What still listens in a folder that is shared is nothing to be overwritten.
        if self.is_listening():
            raise EmbeddedPostgresError(
                f"A Postgres that is no process of this system listens in {self.folder}, perhaps in another container. "
                "Stop it there."
            )

    # ----------------------------------------------------------------------------------------- data folder

    def _open_folder(self) -> None:
        """Make the data folder, or see that it can be used."""
        with suppress(FileExistsError):
            self.folder.mkdir(mode=0o700)
        self._check_user()
        is_initialised = self._read_version() is not None
        descriptor = os.open(self.folder, _FOLDER_FLAGS)
        try:
            if os.fstat(descriptor).st_uid == 0:
                self._check_that_it_is_new(is_initialised)
                account = _system_account()
                os.fchown(descriptor, account.pw_uid, account.pw_gid)
            os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)

    def _read_version(self) -> str | None:
        """The version of Postgres that made the data; None for an empty folder. Raises for all that cannot be used."""
        if self._unfinished.exists():
            _empty(self.folder)
        try:
            version = (self.folder / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            if any(self.folder.iterdir()):
                raise EmbeddedPostgresError(
                    f"{self.folder} is not empty, and is no data folder of Postgres. "
                    "Move it away, or set STOREFRONT_DATA_DIR to another folder."
                ) from None
            return None
        if version != str(MAJOR_VERSION):
            raise EmbeddedPostgresError(
                f"{self.folder} was made by Postgres {version[:20]}, and this release brings Postgres {MAJOR_VERSION}. "
                "To keep the data, dump it with the release that made it (pg_dump) and restore it here. "
                "To begin anew, move the folder away."
            )
        return version

    def _check_user(self) -> None:
        user, owner = os.geteuid(), self.folder.stat().st_uid
        if _name_of(user) is None:
            raise EmbeddedPostgresError(
                f"The user id {user} has no name on this system, and Postgres needs one. "
                "Add it to /etc/passwd, or start as another user."
            )
        if user not in (0, owner):
            raise EmbeddedPostgresError(
                f"{self.folder} belongs to {_name_of(owner) or owner}, and this is {_name_of(user)}. "
                "Start as that user, or set STOREFRONT_DATA_DIR to a folder of your own."
            )

    def _check_that_it_is_new(self, is_initialised: bool) -> None:
        if is_initialised or self._is_link:
            raise EmbeddedPostgresError(
                f"{self.folder} belongs to root, and Postgres does not run as root. "
                f"Give it to an account of its own: chown -R {SYSTEM_ACCOUNT} {shlex.quote(str(self.folder))}"
            )

    def _initialise(self, lock: int) -> None:
        if (self.folder / "PG_VERSION").exists():
            return
        self._unfinished.touch(mode=0o600)
        options = "--no-locale", "--encoding=UTF8", "--auth=reject", f"--username={SUPERUSER}", "--no-instructions"
        # With the lock: if this process is killed, the next one waits for initdb to end before it clears what that made.
        result = self._run("initdb", *options, keep=(lock,))
        if result.returncode:
            raise self._failure("could not make its data folder", result.stdout)
        self._unfinished.unlink()

    def _write_authentication(self) -> None:
        # The kernel says which user connects: there is no password that could leak.
        owner = _name_of(self.folder.stat().st_uid)
        users = {_name_of(os.geteuid()), _name_of(0), None if owner == SYSTEM_ACCOUNT else owner} - {None}
        quoted = ['"{}"'.format(str(user).replace('"', '""')) for user in sorted(map(str, users))]
        maps = [f"storefront {user} {role}\n" for user in quoted for role in (APPLICATION_ROLE, SUPERUSER)]
        self._write("pg_hba.conf", f"local all {SUPERUSER},{APPLICATION_ROLE} peer map=storefront\n")
        self._write("pg_ident.conf", "".join(maps))

    def _write(self, name: str, text: str) -> None:
        """Replace a file in the data folder. Links that its owner put there are not followed: this process may be root."""
        folder = os.open(self.folder, _FOLDER_FLAGS)
        aside = f"{name}.new"
        try:
            with suppress(FileNotFoundError):
                os.unlink(aside, dir_fd=folder)
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder), "w") as file:
                file.write(f"# Written anew at every start of the embedded Postgres: changes are lost.\n{text}")
                os.fchown(file.fileno(), *self._owner())
            os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(folder)

    def _remove_leftovers(self) -> None:
        for name in _LEFTOVERS:
            (self.folder / name).unlink(missing_ok=True)

    # -------------------------------------------------------------------------------------- runtime folder

    def _make_runtime(self) -> None:
        """See that programs and socket can be reached: where they cannot as they are, through a temporary folder."""
        reason = self._try_programs()
        if not reason and _is_plain(self.folder):
            return
        needs_copy = bool(reason)
        for path in temporary_folder_paths():
            if _is_plain(path / "data"):
                reason = self._try_runtime(path, needs_copy=needs_copy)
                if not reason:
                    return
                self._remove_runtime()
        needs = "runs its programs from" if needs_copy else "reaches its socket through"
        raise EmbeddedPostgresError(
            f"The embedded Postgres {needs} a temporary folder, and none can be used"
            + (f" ({reason[:_MAX_REASON_CHARACTERS]})" if reason else "")
            + ". Set TMPDIR to a folder with a short path that every user can enter and programs can run from."
        )

    def _try_runtime(self, path: Path, *, needs_copy: bool) -> str:
        """Make a temporary folder; returns why it cannot be used, or an empty string."""
        # Noted first: what a process leaves that is killed meanwhile is found and removed.
        self._runtime.symlink_to(path)
        try:
            path.mkdir(mode=0o700)
            (path / "data").symlink_to(self.folder)
            if needs_copy:
                self._programs = copy_programs(path)
                # The server's user enters it, and sees nothing but the programs.
                path.chmod(0o711)
        except OSError as error:
            return str(error)
        return self._try_programs()

    def _remove_runtime(self) -> None:
        with suppress(FileNotFoundError):
            remove_temporary_folder(self._runtime.readlink())
            self._runtime.unlink()

    # --------------------------------------------------------------------------------------------- processes

    def _try_programs(self) -> str:
        """Why the programs cannot be run; an empty string where they can."""
        if has_shell_syntax(self._programs):
            return f"{self._programs} has characters that shells interpret"
        try:
            result = self._run("initdb", "--version")
        except OSError as error:
            return str(error)
        return str(result.stdout) if result.returncode else ""

    def _run(
        self, program: str, *arguments: str, stdout: int | IO[str] = subprocess.PIPE, keep: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the data folder, as the folder's owner."""
        uid, gid = self._owner() if os.geteuid() == 0 else (None, None)
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        folder = _WORKING_FOLDER if os.path.exists(_WORKING_FOLDER) else str(self.folder)
        return subprocess.run(
            [str(self._programs / program), *arguments],
            check=False,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            pass_fds=keep,
            cwd=self.folder,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            umask=0o077,
            # English, so that the reason of a failure can be found in what they say.
            env={"PATH": os.defpath, **environment, "LC_ALL": "C", "PGDATA": folder},
        )

    def _owner(self) -> tuple[int, int]:
        """The user and the group that own the server's files and run its processes."""
        status = self.folder.stat()
        try:
            return status.st_uid, pwd.getpwuid(status.st_uid).pw_gid
        except KeyError:
            return status.st_uid, status.st_gid

    def _launch(self) -> None:
        settings = {
            "listen_addresses": "",
            "port": str(PORT),
            # In the data folder, which no other user may enter. The path is relative: the address of a socket is short.
            "unix_socket_directories": ".",
            "unix_socket_permissions": "0700",
            "cluster_name": self._name,
        }
        options = shlex.join(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        wait = "--wait", f"--timeout={START_TIMEOUT_SECONDS}"
        with open(self.log, "w", opener=_open_private) as log:
            result = self._run("pg_ctl", "start", *wait, "--options", options, stdout=log)
        if result.returncode:
            raise self._failure(f"did not start (its log is {self.log})", self.log.read_text(errors="replace"))

    def _failure(self, what: str, output: str) -> EmbeddedPostgresError:
        lines = [_LOG_PREFIX.sub("", line.strip()) for line in output.splitlines() if line.strip()]
        errors = [number for number, line in enumerate(lines) if _ERROR_LINE.search(line)]
        # With the line before, which may say more, and the one behind, which may have a hint.
        told = lines[max(0, errors[0] - 1) : errors[0] + 2] if errors else lines[-1:]
        reason = " ".join(told) or f"it wrote no log, and the disk has {shutil.disk_usage(self.folder).free:,} bytes left"
        return EmbeddedPostgresError(f"The embedded Postgres in {self.folder} {what}: {reason[:_MAX_REASON_CHARACTERS]}")

    @property
    def _name(self) -> str:
        """What the command lines of its processes have in common. A copy of the folder has another name."""
        status = self.folder.stat()
        return f"storefront-{hashlib.sha256(f'{status.st_dev}:{status.st_ino}'.encode()).hexdigest()[:16]}"

    def _stop_processes(self) -> None:
        for sign, seconds in STOP_SIGNALS:
            processes = self._find_processes()
            if not processes:
                return
            # The postmaster ends the others. Where it was killed they end by themselves, or else by force.
            postmasters = [process for process in processes if _is_postmaster(_command_line(process))]
            for process in postmasters if sign == Signals.SIGINT else processes:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(sign)
            _wait_for_end(processes, seconds if postmasters else ORPHANS_TIMEOUT_SECONDS)
        if self._find_processes():
            raise EmbeddedPostgresError(f"The processes of the Postgres in {self.folder} survive SIGKILL. Start again later.")

    def _find_processes(self) -> list[psutil.Process]:
        """The processes of this cluster. Process ids are used again: it is by their command lines that they are known."""
        if not (self.folder / "postmaster.pid").exists() and not self.is_listening():
            return []
        name, owner = self._name, self.folder.stat().st_uid
        found = [
            process for process in psutil.process_iter(["uids"]) if process.info["uids"] and process.info["uids"].real == owner
        ]
        return [process for process in found if _is_of_cluster(_command_line(process), name, self.folder)]


def _is_of_cluster(line: Sequence[str], name: str, folder: Path) -> bool:
    if not line:
        return False
    # Older releases gave the postmaster the path of the folder: one that was never stopped is known by that.
    is_older = any(pair == ("-D", str(folder)) for pair in pairwise(line))
    is_ours = is_older or f"cluster_name={name}" in line
    return (_is_postmaster(line) and is_ours) or line[0].startswith(f"postgres: {name}: ")


def _is_postmaster(line: Sequence[str]) -> bool:
    # The others write what they do in place of their command lines.
    return bool(line) and os.path.basename(line[0]) == "postgres"


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def _wait_for_end(processes: Sequence[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(_is_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.01)


def _is_alive(process: psutil.Process) -> bool:
    # Not until it is reaped: in a container there may be no process that does.
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _is_plain(folder: Path) -> bool:
    """Whether a socket in this folder has an address that fits, and one that can stand in a URL as it is."""
    path = str(folder / _SOCKET)
    return len(path) <= MAX_SOCKET_PATH_BYTES and _PLAIN_PATH.fullmatch(path) is not None


def _empty(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _name_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _system_account() -> pwd.struct_passwd:
    """The account that runs Postgres when this process is root's, made where it is missing."""
    command = "useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"
    reason = ""
    for _ in range(5):
        try:
            return pwd.getpwnam(SYSTEM_ACCOUNT)
        except KeyError:
            pass
        try:
            made = subprocess.run([*command, SYSTEM_ACCOUNT], capture_output=True, text=True, check=False)
        except OSError as error:
            reason = str(error)
            break
        if made.returncode:
            # Perhaps another process makes it at this moment.
            reason = made.stderr.strip()
            time.sleep(0.2)
    raise EmbeddedPostgresError(
        f"Postgres does not run as root, and the account {SYSTEM_ACCOUNT} for it cannot be made: {reason}. "
        "Make it, or start as another user."
    )
