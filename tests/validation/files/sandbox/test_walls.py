"""The walls around the readers: what a reader can do that a file has taken over, with all layers and without some."""

from __future__ import annotations

import errno
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from prismatic.sandbox import walls
from prismatic.sandbox.walls import ALLOW, ARCHITECTURES, FAIL, KILL, Layer
from prismatic.sandbox.worker import LIBRARY_SETTINGS
from tests.support import bad_files, taken_over

LAYER = walls.layer()
needs_seccomp = pytest.mark.skipif(not LAYER.seccomp, reason="this kernel has no seccomp filters, or forbids their use")
needs_both = pytest.mark.skipif(not (LAYER.landlock and LAYER.seccomp), reason=f"this kernel lacks a layer: {LAYER}")
ALWAYS = {"size of another file"}  # no layer hides that a file exists
KINDS = {"sqlite": ALWAYS | {"a thread"}, "zip": ALWAYS, "set": ALWAYS | {"a thread"}, "sql": ALWAYS | {"a thread"}}
# The probes of the reader of sets take ten seconds.
WORKERS = [pytest.param(kind, marks=pytest.mark.long) if kind == "set" else kind for kind in KINDS]
USERS = [
    [],
    pytest.param(["--nobody"], marks=pytest.mark.skipif(os.geteuid() != 0, reason="not root, so no other user")),
]


@pytest.fixture
def places() -> Iterator[tuple[Path, Path]]:
    """Yield a run file that the reader may read, in a folder that all may write, and a file that it may not."""
    with tempfile.TemporaryDirectory() as root:
        yield make_places(Path(root))


def make_places(root: Path) -> tuple[Path, Path]:
    folder, secret = root / "given", root / "secret"
    folder.mkdir()
    given = bad_files.good(folder / "run.db")
    (folder / "victim").write_text("a file of the user")
    secret.write_text("a secret of the user")
    (folder / "link").symlink_to(secret)
    for path, mode in ((root, 0o755), (folder, 0o777), (given, 0o666), (secret, 0o644)):
        path.chmod(mode)
    return given, secret


def what_is_possible(worker: str, places: tuple[Path, Path], *options: str) -> tuple[set[str], int]:
    """Return the names of the probes that succeed in a worker, and the number of all probes."""
    command = [sys.executable, "-B", taken_over.__file__, worker, *map(str, places), *options]
    environment = {**os.environ, **LIBRARY_SETTINGS}
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120, env=environment).stdout
    found = {name: result for group in json.loads(answer.splitlines()[-1]).values() for name, result in group.items()}
    assert {*found.values()} <= {"possible", "refused", "killed"}, found
    return {name for name, result in found.items() if result == "possible"}, len(found)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root of Linux may do all of it")
def test_every_probe_is_possible_without_walls(places: tuple[Path, Path]) -> None:
    """Otherwise a probe that is broken would count as refused."""
    possible, tried = what_is_possible("none", places)
    assert tried >= 44
    assert len(possible) >= tried - 4  # a container may forbid some of them itself


@needs_both
@pytest.mark.parametrize("user", USERS, ids=["this user", "an ordinary user"][: len(USERS)])
@pytest.mark.parametrize("worker", WORKERS)
def test_a_reader_that_was_taken_over_can_do_nothing(worker: str, user: list[str], places: tuple[Path, Path]) -> None:
    possible, tried = what_is_possible(worker, places, *user)
    assert tried >= 44
    assert possible == KINDS[worker]
    assert places[1].read_text() == "a secret of the user"


@needs_seccomp
@pytest.mark.parametrize("worker", WORKERS)
def test_without_landlock_it_can_only_read(worker: str, places: tuple[Path, Path]) -> None:
    possible, _ = what_is_possible(worker, places, "--no-landlock")
    reading = {*taken_over.probes(*map(str, places))["reading"]}
    assert possible - KINDS[worker] <= reading


def test_reading_goes_on_where_the_kernel_has_neither_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSYS, "")

    monkeypatch.setattr(walls, "_call", refuse)
    assert walls.enforce(folders=["/usr"]) == Layer(0, False)
    os.listdir("/")


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Layer(7, True), "Landlock (version 7) and seccomp"),
        (Layer(0, True), "seccomp; without Landlock, a reader that a file took over could read other files"),
        (
            Layer(3, False),
            "Landlock (version 3); without seccomp, a reader that a file took over could use the network",
        ),
        (Layer(0, False), "limits only; this system confines neither"),
    ],
)
def test_a_layer_says_what_it_lacks(layer: Layer, words: str) -> None:
    assert str(layer).startswith(words)


# -- The filter of system calls, on both machines ----------------------------------------------------------------------

CLONE_OF_A_THREAD, CLONE_OF_A_FORK = 0x3D0F00, 0x1200011  # the flags that glibc uses


def decide(machine: str, call: str | int, *arguments: int, threads: bool = False) -> int:
    """Return what the filter of process 77 returns: an interpreter of its instructions."""
    column = list(ARCHITECTURES).index(machine)
    numbers = {
        k: v
        for calls in (walls.ALLOWED, walls.CHECKED, walls.DANGEROUS)
        for k, v in walls._numbers(calls, column).items()
    }
    number = call if isinstance(call, int) else numbers[call]
    data = struct.pack("<iIQ6Q", number, ARCHITECTURES[machine], 0, *arguments, *[0] * (6 - len(arguments)))
    program, value, at = walls.call_filter(machine, 77, threads=threads), 0, 0
    tests = {walls.EQUAL: int.__eq__, walls.AT_LEAST: int.__ge__, walls.ANY_BIT: lambda a, b: bool(a & b)}
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == walls.RETURN:
            return operand
        if code == walls.LOAD:
            (value,) = struct.unpack_from("<I", data, operand)
        elif code == walls.AND:
            value &= operand
        else:
            at += if_true if tests[code](value, operand) else if_false


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize(
    ("call", "arguments", "answer"),
    [
        ("read", (0,), ALLOW),
        ("getrandom", (), ALLOW),
        ("madvise", (0, 4096, 4), ALLOW),
        ("execve", (), KILL),
        ("ptrace", (), KILL),
        ("connect", (3,), KILL),
        ("openat", (-100 % 2**64, 1, os.O_RDONLY | os.O_CLOEXEC), ALLOW),
        ("openat", (-100 % 2**64, 1, os.O_WRONLY), FAIL | errno.EPERM),
        ("openat", (-100 % 2**64, 1, os.O_RDONLY | os.O_CREAT), FAIL | errno.EPERM),
        ("openat", (-100 % 2**64, 1, os.O_RDONLY | os.O_TRUNC), FAIL | errno.EPERM),
        ("mmap", (0, 4096, 3), ALLOW),
        ("mmap", (0, 4096, 5), FAIL | errno.EPERM),
        ("mprotect", (1, 4096, 1), ALLOW),
        ("mprotect", (1, 4096, 7), FAIL | errno.EPERM),
        ("fcntl", (3, 6), ALLOW),  # F_SETLK
        ("fcntl", (3, 8), FAIL | errno.EPERM),  # F_SETOWN
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), FAIL | errno.ENOTTY),  # TIOCSTI
        ("prctl", (15,), ALLOW),
        ("prctl", (4,), FAIL | errno.EPERM),
        ("prlimit64", (0, 7, 0), ALLOW),
        ("prlimit64", (0, 0, 1), ALLOW),
        ("prlimit64", (0, 7, 1 << 32), FAIL | errno.EPERM),
        ("prlimit64", (1, 0, 1), FAIL | errno.EPERM),
        ("tgkill", (77, 77, 6), ALLOW),
        ("tgkill", (78, 78, 6), FAIL | errno.EPERM),
        ("clone", (CLONE_OF_A_THREAD,), KILL),
        (435, (), FAIL | errno.ENOSYS),  # clone3
        (999, (), FAIL | errno.ENOSYS),
        (1 << 30, (), KILL),
    ],
)
def test_the_filter_decides_each_call(machine: str, call: str | int, arguments: tuple[int, ...], answer: int) -> None:
    assert decide(machine, call, *arguments) == answer


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_only_a_reader_with_threads_may_start_one(machine: str) -> None:
    assert decide(machine, "clone", CLONE_OF_A_THREAD, threads=True) == ALLOW
    assert decide(machine, "clone", CLONE_OF_A_FORK, threads=True) == KILL
    assert decide(machine, "clone", CLONE_OF_A_THREAD | 0x10000000, threads=True) == KILL


HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_numbers_of_calls_are_those_of_the_kernels_headers(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("the headers of the kernel are not installed")
    text = HEADERS[machine].read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    known |= {"newfstatat": known.get("newfstatat", known.get("fstatat"))}
    column = list(ARCHITECTURES).index(machine)
    for calls in (walls.ALLOWED, walls.CHECKED, walls.DANGEROUS):
        for name, number in walls._numbers(calls, column).items():
            assert known[name] == number, name
