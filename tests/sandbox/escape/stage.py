"""The host that an attempt meets: files, processes, ports and shared memory with secrets, and what it notes."""

# ruff: noqa: PLW0108, PTH115, PTH116, PTH123

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from provider.sandbox.image.interpreter import program
from provider.sandbox.policy import USER, Mount
from tests.sandbox.escape import attempt, victim
from tests.sandbox.escape.attempt import ATTEMPTS, CHANGED, Host
from tests.sandbox.escape.reader import read_frames
from tests.support.engines import tiny_model

_TEXT = "as it was, " * 400
_SOCKETS = ("again.sock", "raced.sock", "moved.sock", "deleted.sock")
_OF_THE_DISK = {"read-disk", "write-disk", "disk-in-dev"}
_POLL_S = 0.05
_SHM_RMID = _MSG_RMID = 0
_CREATE = 0o1000
_IPC = {"shmctl": (31, 195), "msgsnd": (69, 189), "msgctl": (71, 187)}
_FEW_NAMES, _LARGE = 100, 1 << 20
HANDLE_BYTES = 128


class Disk:
    """A loop device over a file of its own: it stands for the machine's disk."""

    def __init__(self, folder: Path) -> None:
        handle, name = tempfile.mkstemp(dir=folder, prefix="disk-")
        os.close(handle)
        self.file = Path(name)
        self.file.write_bytes(bytes(1 << 16))
        done = subprocess.run(["losetup", "-f", "--show", self.file], capture_output=True, text=True, check=True)
        self.device = done.stdout.strip()
        self.number = os.stat(self.device).st_rdev

    def fill(self, text: str) -> None:
        with open(self.device, "r+b", buffering=0) as file:
            file.write(text.encode().ljust(8192, b"\0"))
            os.fsync(file.fileno())

    def is_changed(self) -> bool:
        with open(self.device, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return any(file.read(8192)[4096:])

    def close(self) -> None:
        subprocess.run(["losetup", "-d", self.device], check=True)
        self.file.unlink()


class Stage:
    """One stage serves one container: secrets and folders are new each time."""

    def __init__(self, share: Path, daemon_socket: str, disk: Disk, names: list[str], control: str = "") -> None:
        self.secret = f"secret-{secrets.token_hex(12)}"
        self.noted: set[str] = set()
        self.daemon_socket = daemon_socket
        self.disk = disk
        self.names = names
        self.neighbour_id = ""
        self._control = control
        self._share = share
        self._stack = ExitStack()
        self._ends = threading.Event()
        self._threads: list[threading.Thread] = []
        self._first: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(dir=self._share, prefix="stage-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        self._make_folders()
        if _OF_THE_DISK & set(self.names):
            self.disk.fill(self.secret)
        self._mark = f"{self._share.parent.parent.name}-{secrets.token_hex(4)}"  # by the daemon: see host_state
        self._host: Host = {
            "attempts": self.names,
            "share": "/run/host",
            "secret_file": str(self.keys / "secret"),
            "secret_handle": _handle(self.keys / "secret"),
            "daemon_socket": self.daemon_socket,
            "disk": self.disk.number,
            "neighbour_share": str(self.neighbour_share),
            "neighbour_abstract": f"claw-neighbour-{self._mark}",
            "gossip_mark": f"gossip-{self._mark}",
            "abstract": f"claw-stream-{self._mark}",
            "abstract_datagram": f"claw-datagram-{self._mark}",
            "abstract_free": f"claw-free-{self._mark}",
            "key": f"claw-key-{self._mark}",
            **_addresses(),
        }
        self._start_victim()
        self._share_memory()
        self._listen()
        self._first = {path.name: _state(path) for path in self.models.iterdir()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()
        self._stack.close()

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """As the worker mounts: all of it read-only. A Unix socket can be used on such a mount."""
        return (Mount(self.models, "/models"), Mount(self.share, "/run/host"), Mount(self.code, "/run/escape"))

    def facts(self) -> Host:
        """What the attacker is told: all that they could find out or guess, and more."""
        return self._host

    def successes(self) -> set[str]:
        """Attempts that left a trace on the host."""
        noted = set(self.noted)
        noted |= {name for name in self.names if ATTEMPTS[name].effect == CHANGED and self._is_changed(name)}
        for name, look in self._looks().items():
            if name in self.names and look():
                noted.add(name)
        return noted & set(self.names)

    def _looks(self) -> dict[str, Callable[[], bool]]:
        share, process = self.share, self._victim.pid
        return {
            "write-disk": self.disk.is_changed,
            "write-memory-of-a-process": lambda: self._scratch(0).startswith(b"poked by /proc"),
            "overwrite-memory": lambda: self._scratch(64).startswith(b"poked by writev"),
            "lower-priority": lambda: os.getpriority(os.PRIO_PROCESS, process) == 7,
            "lower-limits": lambda: _queue_limit(process) == "4096",
            "move-to-a-core": lambda: os.sched_getaffinity(process) == {0},
            "program-behind-exe": lambda: _state(self.models / "tool") != self._first["tool"],
            "write-dev-shm": lambda: b"changed" in self._shm_file.read_bytes(),
            "nameless-file": lambda: (self.models / "nameless").exists(),
            "new-file": lambda: (self.models / "new").exists(),
            "link-model": lambda: (self.models / "linked").exists(),
            "become-another-user": lambda: _owner(share / "of-another-user") == 12_345,
            "plant-set-user-id": lambda: (
                _mode(share / "planted") & stat.S_ISUID != 0 and _owner(share / "planted") == 0
            ),
            "file-capabilities": lambda: _attributes(share / "capable") == ["security.capability"],
            "link-for-socket": lambda: (share / "again.sock").is_symlink(),
            "exchange-race": lambda: (share / "raced.sock").is_symlink(),
            "move-socket": lambda: not (share / "moved.sock").exists(),
            "delete-socket": lambda: not (share / "deleted.sock").exists(),
            "leave-link": lambda: (share / "result").is_symlink(),
            "fill-folder": lambda: _size(share / "filling") > _LARGE,
            "many-names": lambda: len(list(share.glob("name-*"))) > _FEW_NAMES,
        }

    def _is_changed(self, name: str) -> bool:
        path = self.models / name
        return name != "write-disk" and _state(path) != self._first.get(name)

    def _make_folders(self) -> None:
        self.keys, self.models, self.share, self.neighbour_share, self.code = (
            self.folder / name for name in ("keys", "models", "share", "neighbour", "code")
        )
        for folder in (self.keys, self.models, self.share, self.neighbour_share, self.code):
            folder.mkdir()
            folder.chmod(0o777 if folder in (self.models, self.share) else 0o755)
        for path in (
            self.keys / "secret",
            self.keys / "other.gguf",
            self.keys / "hidden",
            self.neighbour_share / "secret",
        ):
            path.write_text(self.secret)
            path.chmod(0o644)
        for name in self.names:
            (self.models / name).write_text(_TEXT)
            (self.models / name).chmod(0o666)
        # Programs that the image has the libraries for. The bits are set without write access for others.
        shutil.copyfile("/usr/bin/sleep", self.models / "tool")
        shutil.copyfile(program(), self.models / "set-user-id")
        (self.models / "tool").chmod(0o777)
        (self.models / "set-user-id").chmod(0o4755)
        shutil.copyfile(tiny_model(), self.models / "tiny.gguf")
        (self.models / "tiny.gguf").chmod(0o644)
        source = Path(attempt.__file__).parent
        package = self.code / "tests/sandbox/escape"
        (package / "classes").mkdir(parents=True)
        for path in (source / "attempt.py", source / "inside.py", *(source / "classes").glob("*.py")):
            shutil.copyfile(path, package / path.relative_to(source))

    def _start_victim(self) -> None:
        self._victim = subprocess.Popen(
            [program(), "-S", "-c", Path(victim.__file__).read_text(), self._host["key"], str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            user=USER,
            group=USER,
            extra_groups=[],
            cwd=self.keys,
            env={"CLAW_KEY": self.secret},
        )
        self._stack.callback(self._end_victim)
        assert self._victim.stdout is not None
        facts = json.loads(self._victim.stdout.readline())
        assert facts["key"] > 0
        (self.keys / "hidden").unlink()
        self._scratch_at = facts["scratch_at"]
        self._host |= {"victim": self._victim.pid, "victim_fd": facts["fd"]}
        self._host |= {"victim_secret_at": facts["secret_at"], "victim_scratch_at": facts["scratch_at"]}
        self._thread(self._hear_victim)

    def _hear_victim(self) -> None:
        assert self._victim.stdout is not None
        os.set_blocking(self._victim.stdout.fileno(), False)
        while not self._ends.wait(_POLL_S):
            self.noted |= set((self._victim.stdout.read() or b"").decode().split())

    def _end_victim(self) -> None:
        self._victim.send_signal(signal.SIGCONT)
        self._victim.communicate()

    def _scratch(self, offset: int) -> bytes:
        with Path(f"/proc/{self._victim.pid}/mem").open("rb") as file:
            file.seek(self._scratch_at + offset)
            return file.read(32)

    def _share_memory(self) -> None:
        key = secrets.randbelow(1 << 30) + 1
        text = self.secret.encode()
        segment = attempt.call("shmget", key, 4096, _CREATE | 0o666)
        self._stack.callback(_ipc, "shmctl", segment, _SHM_RMID, 0)
        library = attempt.library()
        library.shmat.restype = ctypes.c_void_p
        where = library.shmat(segment, None, 0)
        ctypes.memmove(where, text, len(text))
        library.shmdt(ctypes.c_void_p(where))
        queue = attempt.call("msgget", key, _CREATE | 0o666)
        self._stack.callback(_ipc, "msgctl", queue, _MSG_RMID, 0)
        message = ctypes.create_string_buffer(struct.pack("=q", 1) + text)
        _ipc("msgsnd", queue, message, len(text), 0)
        self._shm_file = Path("/dev/shm", f"claw-{self._mark}")
        self._shm_file.write_text(self.secret)
        self._shm_file.chmod(0o666)
        self._stack.callback(self._shm_file.unlink)
        self._host |= {"shm_key": key, "msg_key": key, "shm_name": self._shm_file.name}

    def _listen(self) -> None:
        stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
        self._host["tcp"] = self._serve(socket.AF_INET, stream, ("0.0.0.0", 0), self._tell)[1]
        self._host["udp"] = self._serve(socket.AF_INET, datagram, ("127.0.0.1", 0), None)[1]
        self._host["tcp6"] = 0
        if Path("/proc/net/if_inet6").exists():
            self._host["tcp6"] = self._serve(socket.AF_INET6, stream, ("::1", 0), self._tell)[1]
        self._serve(socket.AF_UNIX, stream, "\0" + self._host["abstract"], self._tell)
        self._serve(socket.AF_UNIX, datagram, "\0" + self._host["abstract_datagram"], None)
        for path in (self.share / "engine.sock", self.neighbour_share / "engine.sock"):
            self._serve(socket.AF_UNIX, stream, str(path), self._answer)
            path.chmod(0o666)
        self._serve(socket.AF_UNIX, stream, str(self.share / "reader.sock"), self._read)
        (self.share / "reader.sock").chmod(0o666)
        for name in _SOCKETS:
            with socket.socket(socket.AF_UNIX) as link:
                link.bind(str(self.share / name))
            (self.share / name).chmod(0o666)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._host["free_port"] = free.getsockname()[1]
        self._thread(self._look_for_listeners)
        if "sniff" in self.names:
            self._thread(self._gossip)

    def _serve(self, family: int, kind: int, where: Any, handle: Callable[[socket.socket], None] | None) -> Any:
        listener = self._stack.enter_context(socket.socket(family, kind))
        listener.bind(where)
        listener.settimeout(_POLL_S)
        if handle is not None:
            listener.listen()
        self._thread(lambda: self._accept(listener, handle))
        return listener.getsockname()

    def _accept(self, listener: socket.socket, handle: Callable[[socket.socket], None] | None) -> None:
        while not self._ends.is_set():
            try:
                if handle is None:
                    said, sender = listener.recvfrom(512)
                    self._note(said)
                    if sender:
                        listener.sendto(self.secret.encode(), sender)
                    continue
                link = listener.accept()[0]
            except TimeoutError:
                continue
            with link:
                link.settimeout(5)
                try:
                    handle(link)
                except OSError:
                    continue

    def _note(self, said: bytes) -> None:
        self.noted |= {name for name in self.names if name.encode() in said}

    def _tell(self, link: socket.socket) -> None:
        self._note(link.recv(64))
        link.sendall(self.secret.encode())

    def _answer(self, link: socket.socket) -> None:
        """The host's side of a socket: it takes bytes only. Weakened it takes and gives descriptors as well."""
        if self._control == "a host that takes descriptors":
            said, taken, _, _ = socket.recv_fds(link, 64, 4)
            self._look_for_descriptors()
            for each in taken:
                os.close(each)
        else:
            said = link.recv(64)
            self._look_for_descriptors()
        if self._control == "a host that gives descriptors":
            folder = os.open(self.keys, os.O_RDONLY)
            socket.send_fds(link, [b"here"], [folder])
            os.close(folder)
        elif b"socket-of-another-container" in said:
            link.sendall(self.secret.encode())
        else:
            link.sendall(b"thank you")

    def _look_for_descriptors(self) -> None:
        for path in Path("/proc/self/fd").iterdir():
            try:
                if os.readlink(path) == "/etc/passwd":
                    self.noted.add("descriptor-to-host")
            except OSError:
                continue

    def _read(self, link: socket.socket) -> None:
        """The engine's frames, read as the worker reads them."""
        name = link.recv(64).decode().strip()
        if read_frames(link, believing=self._control == "a host that believes every frame"):
            self.noted.add(name)

    def _look_for_listeners(self) -> None:
        places: tuple[tuple[str, int, Any], ...] = (
            ("listen-on-a-port", socket.AF_INET, ("127.0.0.1", self._host["free_port"])),
            ("squat-abstract-name", socket.AF_UNIX, "\0" + self._host["abstract_free"]),
        )
        while not self._ends.wait(_POLL_S):
            for name, family, where in places:
                with socket.socket(family) as link:
                    if name in self.names and link.connect_ex(where) == 0:
                        self.noted.add(name)
            if "lock-model" in self.names:
                self._try_lock()

    def _try_lock(self) -> None:
        import fcntl

        try:
            with (self.models / "lock-model").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self.noted.add("lock-model")

    def _gossip(self) -> None:
        """The host's own traffic, for those who can read it."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            while not self._ends.wait(_POLL_S):
                link.sendto(f"{self._host['gossip_mark']} {self.secret}".encode(), ("127.0.0.1", self._host["udp"]))

    def _thread(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()


def _addresses() -> dict[str, str]:
    for interface, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family == socket.AF_INET and not entry.address.startswith("127."):
                return {"interface": interface, "address": entry.address}
    return {"interface": "lo", "address": "127.0.0.2"}


def _handle(path: Path) -> str:
    handle = ctypes.create_string_buffer(struct.pack("=Ii", HANDLE_BYTES, 0), HANDLE_BYTES + 8)
    mount = ctypes.c_int()
    attempt.call("name_to_handle_at", -100, str(path).encode(), attempt.address(handle), attempt.address(mount), 0)
    return handle.raw[: 8 + struct.unpack_from("=I", handle.raw)[0]].hex()


def _ipc(name: str, *arguments: Any) -> int:
    attempt.NUMBERS.setdefault(name, _IPC[name])
    return attempt.call(name, *arguments)


def _state(path: Path) -> Any:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    content = path.read_bytes() if stat.S_ISREG(found.st_mode) else b""
    return found.st_mode, found.st_mtime_ns, found.st_ino, found.st_uid, content, tuple(_attributes(path))


def _queue_limit(pid: int) -> str:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[3] for line in lines if line.startswith("Max msgqueue"))


def _attributes(path: Path) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError:
        return []


def _owner(path: Path) -> int:
    return path.lstat().st_uid if path.exists() else -1


def _mode(path: Path) -> int:
    return path.lstat().st_mode if path.exists() else 0


def _size(path: Path) -> int:
    return path.lstat().st_size if path.exists() else 0


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True
