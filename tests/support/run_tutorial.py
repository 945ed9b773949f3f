"""Run docs/tutorial.md as a reader would: each `$` line in a shell, with the exit code and output of the page.

    python tests/support/run_tutorial.py BIN      # BIN: the folder of an installed `prismatic`, such as .venv/bin

The output may have other numbers and further lines; all lines of the page must be in it.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"


def commands(page: Path = PAGE) -> list[tuple[str, int, list[str]]]:
    """Return each command with the exit code and the lines of output on the page."""
    found: list[tuple[str, int, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), flags=re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                command, _, note = line[2:].partition("   # exit code ")
                found.append((command.strip(), int(note or 0), []))
            else:
                found[-1][2].append(line)
    return found


def words(text: str) -> str:
    """Return the text without numbers, hashes and line breaks, which depend on the machine."""
    return " ".join(re.sub(r"\b[0-9a-f]{9}\b|-?\d+(\.\d+)?", "#", text).split())


def follow(binaries: Path, folder: Path) -> None:
    """Run all commands; exit with the expected and the real output where they differ."""
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    for command, code, lines in commands():
        print(f"$ {command}", flush=True)
        done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
        missing = [line for line in lines if words(line) not in words(done.stdout)]
        if done.returncode != code or missing:
            sys.exit(f"exit code {done.returncode}, not {code}; missing {missing} in\n{done.stdout}\n{done.stderr}")
    show(environment, folder)


def show(environment: dict[str, str], folder: Path) -> None:
    """Start the app as the page says and wait until it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["prismatic", "app", "--server.headless", "true", "--server.port", str(port)]
    print("$ prismatic app", flush=True)
    app = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5) as answer:
                    assert answer.read() == b"ok"
                    return
            except OSError:
                time.sleep(0.5)
        sys.exit("the app did not start within a minute")
    finally:
        app.terminate()
        app.wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        follow(Path(sys.argv[1]).absolute(), Path(scratch))
    print("the tutorial holds")
