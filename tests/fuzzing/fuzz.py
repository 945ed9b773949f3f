"""Coverage-guided fuzzing of harnesses.py: `make fuzz`, or for a single one

    python -m tests.fuzzing.fuzz [--seconds N] [--keep] [NAME...]

Inputs that reach new code of ours are collected in build/fuzz/NAME, beside the kept ones in tests/fuzzing/corpus. An
input that fails is written to build/fuzz and its traceback printed; `--again NAME FILE` runs it again. `--keep`
replaces the kept inputs by the smallest set that reaches as much code. The dice are always the same; as the runs end by
the clock, two of them go equally far only on equal machines.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.source_tree import ROOT

CORPUS, BUILD = ROOT / "tests" / "fuzzing" / "corpus", ROOT / "build" / "fuzz"
MISSING = "atheris, the fuzzer, is not installed: it has wheels for Linux on x86_64 and Python up to 3.13 only"
SECONDS, MEGABYTES = 10, 1500  # for one input
AT_ONCE = 2  # processes
HERE = [sys.executable, "-m", "tests.fuzzing.fuzz", "--here"]
IN_MEMORY = {"TMPDIR": "/dev/shm"} if Path("/dev/shm").is_dir() else {}  # a file for each input


def has_fuzzer() -> bool:
    return importlib.util.find_spec("atheris") is not None


def main(words: Sequence[str]) -> int:
    """Fuzz, and return 1 if an input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=60.0, help="in all, shared among the harnesses")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args(words)
    if options.again:
        name, file = options.names
        _harnesses()[name].run(Path(file).read_bytes())
        return 0
    if not has_fuzzer():
        print(f"Not fuzzed: {MISSING}.")
        return 0
    names = options.names or [*_harnesses()]
    shares = {name: _harnesses()[name].share for name in names}
    for_each = options.seconds * min(AT_ONCE, len(names)) / sum(shares.values())
    with ThreadPoolExecutor(AT_ONCE) as pool:
        codes = list(pool.map(_keep if options.keep else lambda name: _fuzz(name, for_each * shares[name]), names))
    return int(any(codes))


def _harnesses():  # type: ignore[no-untyped-def]
    from tests.fuzzing.harnesses import HARNESSES

    return HARNESSES


def _fuzz(name: str, seconds: float) -> int:
    found, kept = BUILD / name, CORPUS / name
    found.mkdir(parents=True, exist_ok=True)
    limits = [f"-timeout={SECONDS}", f"-artifact_prefix={BUILD}/{name}-", f"-runs={_harnesses()[name].runs}"]
    end, seed, tried = time.monotonic() + max(1, seconds), 0, 0
    while (left := round(end - time.monotonic())) > 0:
        seed += 1
        done = _run(name, *limits, f"-max_total_time={left}", f"-seed={seed}", str(found), str(kept))
        tried += sum(map(int, re.findall(r"^Done (\d+) runs", done.stderr, flags=re.MULTILINE)))
        if done.returncode:
            print(f"{name}: FAILED after {tried:,} inputs", flush=True)
            print(done.stdout[-4000:] + done.stderr.rpartition("INFO: Instrumenting ")[2][-8000:], flush=True)
            return done.returncode
    print(f"{name}: {tried:,} inputs, no failure", flush=True)
    return 0


def _keep(name: str) -> int:
    """Replace the kept inputs by the smallest set that reaches the same code as all that were found."""
    found, kept = BUILD / name, CORPUS / name
    found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        done = _run(name, "-merge=1", folder, str(found), str(kept))
        if done.returncode or not any(Path(folder).iterdir()):
            print(f"{name}: nothing was merged", done.stderr[-2000:], flush=True)
            return 1
        shutil.rmtree(kept)
        shutil.copytree(folder, kept)
    return 0


def _run(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run libFuzzer on one harness in a process."""
    harness = _harnesses()[name]
    BUILD.mkdir(parents=True, exist_ok=True)
    words = BUILD / f"{name}.words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in harness.words))
    common = [f"-max_len={harness.most}", f"-rss_limit_mb={MEGABYTES}"]
    common += [f"-dict={words}"] if harness.words else []
    return subprocess.run(
        [*HERE, name, *common, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"} | IN_MEMORY,
        check=False,
    )


def _escaped(word: str) -> str:
    return "".join(
        c if c.isalnum() or c in " _.-=(" else f"\\x{byte:02x}" for byte in word.encode() for c in [chr(byte)]
    )


def _fuzz_here(name: str, options: Sequence[str]) -> None:
    """Run libFuzzer in this process, which ends with it."""
    import resource

    import atheris

    # A decompressor may ask for gigabytes at once, and must get the error that it gets behind the walls.
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    with atheris.instrument_imports(include=["prismatic", "validation"]):
        from tests.fuzzing.harnesses import HARNESSES
    # The first word is the command by which a merge runs itself again.
    atheris.Setup([shlex.join([*HERE, name]), *options], HARNESSES[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        _fuzz_here(sys.argv[2], sys.argv[3:])
    sys.exit(main(sys.argv[1:]))
