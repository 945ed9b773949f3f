"""The command `prismatic train`, and the options that `train` and `sweep` share (--config, --set, --data, --runs)."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from prismatic.command_line import exit_code, is_first_process
from prismatic.contract.study import Study


def main(words: Sequence[str]) -> int:
    """Run one training command, given as its words from `train` on, and return its exit code."""
    parser = argparse.ArgumentParser(prog="prismatic")
    add_commands(parser.add_subparsers(required=True, metavar="command"))
    options = parser.parse_args(words)
    return exit_code(lambda: options.run(options))


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train` and its options."""
    train = commands.add_parser(
        "train", parents=[run_options()], help="train a model; its dynamics go to build/runs/{hash}/dynamics.db"
    )
    train.add_argument("--overwrite", action="store_true", help="replace an earlier run of the same options")
    train.add_argument(
        "--resume",
        choices=("never", "allow", "must"),
        default="never",
        help="allow: continue an earlier run of the same options; must: fail without one (default: never)",
    )
    train.add_argument(
        "--parallel",
        choices=("ddp", "fsdp2"),
        help="how the processes of `torchrun --nproc-per-node=N -m prismatic train` share each batch",
    )
    train.add_argument(
        "--study",
        nargs="+",
        metavar="NAME=VALUE",
        help="the plan that this run belongs to, as `prismatic sweep` gives it; registered before the first step",
    )
    train.set_defaults(run=_train)


def run_options() -> argparse.ArgumentParser:
    """Return a parent parser with the options that define a run, where it is stored and its checkpoints."""
    options = argparse.ArgumentParser(add_help=False)
    add = options.add_argument
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML options (see experiments/), or a dynamics.db to use its options; default: the documented ones",
    )
    add("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="options that override the file's")
    add("--data", type=Path, metavar="FILE", help="text to train on; default: Python's own documentation")
    add("--runs", type=Path, default=Path("build/runs"), metavar="DIR", help="folder of the run folders (build/runs)")
    add("--checkpoint-freq", type=int, default=500, metavar="N", help="steps between checkpoints, 0 for none (500)")
    return options


def _train(options: argparse.Namespace) -> int:
    # Imported here because torch takes seconds, and `--help` must not wait for it.
    from prismatic.train.trainers import load, train_any

    config = load(options.config, options.set)
    if options.data:
        # Not an override, which is read as YAML: a file may be called `2024` or `notes: a.txt`.
        config = config.model_copy(update={"data": options.data})
    result = train_any(
        config,
        runs=options.runs,
        resume=options.resume,
        overwrite=options.overwrite,
        checkpoint_freq=max(0, options.checkpoint_freq),
        parallel=options.parallel,
        study=Study.from_words(options.study) if options.study else None,
    )
    if not is_first_process():
        return 0
    losses = f"loss {result.loss:.3f}, held-out loss {result.held_out_loss:.3f} nats per byte"
    print(f"run {result.run_hash}: {losses if math.isfinite(result.loss) else 'finished'}")
    print(result.db_path)
    print(f"\nRead the verdict:  prismatic check {result.db_path}\nor in the browser: prismatic app")
    return 0
