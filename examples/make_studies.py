"""Run the studies of experiments/studies and keep their runs as sets: python -m examples.make_studies [NAME ...]

    dose        the documented hypothesis at scales 0, 0.5, 1 and 2
    upcycling   a small Llama becomes a Mixtral: plain copies, noise, Drop-Upcycling
    lora        adapters of one network on two tasks, and on one task twice

Each is one `prismatic study`, two runs at a time, at most about twelve minutes on two cores; finished runs are not
trained again. Its set goes to examples/studies/NAME with numbers of single precision, its report stays in
build/runs/NAME/study.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from examples.make import pack_study

ROOT = Path(__file__).parent.parent
STUDIES = ("dose", "upcycling", "lora")


def main(names: list[str]) -> int:
    """Run the named studies, or all, and return the exit code of the first that fails."""
    for name in names or STUDIES:
        words = ["study", f"experiments/studies/{name}.yml", "--workers", "2", "--checkpoint-freq", "0"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        code = subprocess.run([sys.executable, "-m", "prismatic", *words], cwd=ROOT, env=environment).returncode
        if code:
            return code
        target = ROOT / "examples" / "studies" / name
        target.parent.mkdir(exist_ok=True)
        pack_study(ROOT / "build" / "runs" / name / "study" / "set", target)
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        print(f"examples/studies/{name}: {size:,} bytes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
