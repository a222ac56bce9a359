"""The inner side of the sandbox: a program that shuts itself in, then runs the code it is given.

It is started as a script by `run.py` and imports only the standard library. What it gives up, it
cannot take back, neither can the code: Landlock leaves it the interpreter's own files to read and
nothing to write; a seccomp filter takes away the network, other programs, other processes and the
rights over files; capabilities and the environment are gone; resource limits bound the rest.
None of it needs root, a container or a daemon, only Linux (5.13 or newer, x86-64 or 64-bit ARM).

On standard input: the length of a JSON object in eight bytes, the object (`code`, `name`,
`seconds`, `memory`, `token`), then what the code is to read.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import struct
import sys
import types

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
"""Verdicts of a seccomp filter; an error number is added to the last."""

LAST_CALL = 472
"""System calls after this one were not known when the list below was made: there are none."""

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# System calls by their numbers on x86-64 and on 64-bit ARM (None: does not exist there).
DENIED: dict[str, tuple[int | None, int | None]] = {
    # the network, and every other way to talk to something outside
    "socket": (41, 198), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "shmget": (29, 194), "shmat": (30, 196),
    "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180), "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # programs and processes; threads are `clone`, see `_filter`
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "setrlimit": (160, 164),
    # files: Landlock does not see these
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "setxattrat": (463, 463),
    "removexattrat": (466, 466), "file_setattr": (469, 469), "truncate": (76, 45),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "open_by_handle_at": (304, 265), "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    # the kernel and the machine
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "fsopen": (430, 430), "fsmount": (432, 432), "open_tree": (428, 428),
    "move_mount": (429, 429), "mount_setattr": (442, 442), "unshare": (272, 97),
    "setns": (308, 268), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "kexec_load": (246, 104), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "sethostname": (170, 161),
    "setdomainname": (171, 162), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "syslog": (103, 116), "acct": (163, 89),
}  # fmt: skip
CLONE, CLONE3, KILL_CALL, TGKILL, PRLIMIT = (56, 220), (435, 435), (62, 129), (234, 131), (302, 261)
CLONE_THREAD = 0x10000

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Rights over files that a version of Landlock knows; later ones know 16."""

SHARED = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/dev/urandom")
"""What the interpreter may need besides its own files."""


def main() -> None:
    """Read what is to be run, give up everything else, run it."""
    size = struct.unpack("<Q", _exactly(8))[0]
    task = json.loads(_exactly(size))
    limit(task["seconds"], task["memory"])
    try:
        confine()
    except (OSError, KeyError) as error:
        os.write(2, f"dsv4 sandbox: {error}\n".encode())
        os._exit(CANNOT)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    module.__dict__["__name__"] = task["name"]
    module.__dict__.update(exit=sys.exit, quit=sys.exit)  # `site`, which was left out, adds them
    exec(compile(task["code"], "<answer>", "exec"), module.__dict__)
    sys.stdout.flush()
    print(task["token"], end="", file=sys.stderr, flush=True)


CANNOT = 113
"""Exit code of a machine that cannot confine anything."""


def limit(seconds: int, memory: int) -> None:
    """Processor time in seconds, memory in bytes; nothing is written to files, few are open."""
    for name, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(name, (value, value))


def confine() -> None:
    """Landlock, then no capabilities, then the filter of system calls.

    Raises OSError where the kernel has not got them, KeyError for another processor.
    """
    machine = platform.machine()
    audit = AUDIT[machine]
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(38, 1, 0, 0, 0), "no_new_privs")
    _landlock(libc)
    header = struct.pack("II", 0x20080522, 0)  # version 3, this thread
    _checked(libc.capset(header, bytes(24)), "capset")
    program = _filter(audit, machine != "x86_64", os.getpid())
    buffer = ctypes.create_string_buffer(program, len(program))
    where = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _checked(libc.prctl(22, 2, where, 0, 0), "seccomp")


def _landlock(libc: ctypes.CDLL) -> None:
    """Read the interpreter's files; nothing else can be opened, made, moved or removed."""
    version = _checked(libc.syscall(LANDLOCK_CREATE, None, 0, 1), "Landlock")
    handled = (1 << FILE_RIGHTS.get(version, 16)) - 1
    rules = _checked(libc.syscall(LANDLOCK_CREATE, struct.pack("Q", handled), 8, 0), "Landlock")
    own = {sys.base_prefix, sys.base_exec_prefix} - {"/", "/usr"}
    for path in (*own, os.path.dirname(os.__file__), *SHARED):
        try:
            file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # not on this machine
        rights = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE
        rule = struct.pack("=Qi", rights, file)
        _checked(libc.syscall(LANDLOCK_ADD, rules, 1, rule, 0), f"Landlock for {path}")
        os.close(file)
    _checked(libc.syscall(LANDLOCK_RESTRICT, rules, 0), "Landlock")
    os.close(rules)


def _filter(audit: int, arm: int, pid: int) -> bytes:
    """A seccomp program: what is in `DENIED` fails, and so does all that came after it; a new
    thread may be made but no process, and a signal sent to nobody else."""
    load, equal, at_least, both, back = 0x20, 0x15, 0x35, 0x45, 0x06

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    denied, absent = step(back, ERRNO | errno.EPERM), step(back, ERRNO | errno.ENOSYS)
    allowed = step(back, ALLOW)
    program = step(load, 4) + step(equal, audit, 1) + step(back, KILL)
    # Above them all are also the calls of the x32 interface, which have numbers of their own.
    program += step(load, 0) + step(at_least, LAST_CALL + 1, 0, 1) + absent
    program += step(equal, CLONE3[arm], 0, 1) + absent  # libc goes on with `clone`
    for numbers, argument, test, value in (
        (CLONE, 0, both, CLONE_THREAD),
        (KILL_CALL, 0, equal, pid),
        (TGKILL, 0, equal, pid),
        (PRLIMIT, 2, equal, 0),  # asking what the limits are
    ):
        checks = step(load, 16 + 8 * argument) + step(test, value, 1) + denied + allowed
        program += step(equal, numbers[arm], 0, len(checks) // 8) + checks
    for pair in DENIED.values():
        number = pair[arm]
        if number is not None:
            program += step(equal, number, 0, 1) + denied
    return program + allowed


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _exactly(size: int) -> bytes:
    """Bytes of standard input, and not one more: the rest is for the code."""
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            raise EOFError("the task is cut off")
        data += part
    return data


if __name__ == "__main__":
    main()
