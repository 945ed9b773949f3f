"""Running a command: exit codes, and standard streams that are closed, full, or lack a character."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from prismatic.command_line import exit_code
from prismatic.terminal import print_out
from tests.support.source_tree import ROOT

EXAMPLE = str(ROOT / "examples" / "as-is.db")


def prints(*texts: str, code: int = 3, file: str = "stdout"):
    """Return a command that prints texts to a stream, at once, and returns an exit code."""

    def command() -> int:
        for text in texts:
            print_out(text, stream=getattr(sys, file))
        return code

    return command


@pytest.fixture
def full(monkeypatch):
    """Return a function that lets a stream write to a disk without room."""
    files = []

    def fill(name: str) -> None:
        files.append(open("/dev/full", "w", encoding="utf-8"))  # noqa: SIM115 - closed below
        monkeypatch.setattr(sys, name, files[-1])

    yield fill
    for file in files:
        with suppress(OSError):  # what is left in its buffer
            file.close()


def test_a_closed_output_keeps_the_exit_code(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert exit_code(prints("x")) == 3
    for name in ("stdin", "stdout", "stderr"):
        getattr(sys, name).close()


def test_an_output_that_cannot_be_written_is_an_error_and_no_fault(full, capsys):
    full("stdout")
    assert exit_code(prints("x" * 100_000)) == 2
    sys.stdout.close()
    assert capsys.readouterr().err == (
        "error: the output cannot be written (No space left on device). "
        "Make room or send it elsewhere, and run the command again.\n"
    )


def test_what_no_command_has_flushed_is_written_before_it_ends(full, capsys):
    full("stdout")
    assert exit_code(lambda: print("kept in the buffer") or 0) == 2
    sys.stdout.close()
    assert "cannot be written" in capsys.readouterr().err


def test_an_unwritable_standard_error_keeps_the_exit_code(full):
    full("stderr")
    assert exit_code(prints("x", "y", file="stderr")) == 3
    sys.stderr.close()


@pytest.mark.parametrize(
    ("encoding", "shown"), [("cp1252", "ün \\u2192"), ("ascii", "\\xfcn \\u2192"), ("utf-8", "ün →")]
)
def test_characters_that_the_terminal_lacks_are_escaped(monkeypatch, encoding, shown):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert exit_code(prints("ün →")) == 3
    assert written.getvalue().decode(encoding) == shown + "\n"


def test_an_interrupted_command_says_so_in_one_line_and_returns_130(capsys):
    assert exit_code(lambda: signal.raise_signal(signal.SIGINT) or 0) == 130
    assert capsys.readouterr().err == "interrupted; what was logged is kept\n"


@pytest.mark.parametrize(
    ("module", "words", "redirection", "code"),
    [
        ("prismatic", ["schema"], "> /dev/full", 2),
        ("validation", ["check", EXAMPLE, "--no-cache"], "> /dev/full", 2),
        ("validation.cli.prismatic", ["check", EXAMPLE, "--no-cache"], ">&-", 3),
    ],
)
def test_every_entry_runs_its_commands_so(module, words, redirection, code):
    command = ["bash", "-c", f'"$@" {redirection}', "bash", sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (code, 1 if code == 2 else 0)


@pytest.mark.long  # starts processes and waits until they are at work
@pytest.mark.parametrize("module", ["validation", "validation.cli.prismatic"])
@pytest.mark.parametrize("seconds", [0.2, 0.5, 2.0])
def test_ctrl_c_ends_a_judging_command_without_a_traceback(module, seconds):
    endless = "SELECT sum(a.top_norm) FROM dynamics a, dynamics b, dynamics c, dynamics d"
    command = [sys.executable, "-m", module, "query", endless, EXAMPLE, "--no-cache"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    # Where it interrupts an exec() of text, as of dataclasses, Python ends itself by the signal: 130 for a shell, too.
    assert process.returncode in (130, -signal.SIGINT)
    assert errors == b"interrupted; what was logged is kept\n"
