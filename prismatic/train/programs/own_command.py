"""The trainer `command`: the user's own training program, as one run of a sweep or a study.

The program gets its options and the path of its run file as words of its command, and logs with a
DynamicsLoggerCallback, which registers the plan of the study by itself (`contract.assignment`).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from string import Formatter
from typing import Literal, Self

from pydantic import ConfigDict, model_validator

from prismatic.contract.assignment import VARIABLE, Assignment
from prismatic.contract.options import NAME
from prismatic.contract.study import Study
from prismatic.contract.thresholds import Thresholds
from prismatic.errors import ConfigError
from prismatic.runfile.database import remove
from prismatic.train.corpus import Corpus
from prismatic.train.experiment import Experiment
from prismatic.train.provenance import run_facts

RUN_FILE, FOLDER = "run_file", "folder"


class CommandConfig(Experiment):
    """The options of a run that a program of the user trains: `command`, and any further ones for its placeholders."""

    model_config = ConfigDict(extra="allow", frozen=True)

    trainer: Literal["command"] = "command"
    command: str
    """The words of the program, with {NAME} in place of any option and {run_file} in place of the run file's path."""

    @model_validator(mode="after")
    def _placeholders_are_options(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if not NAME.fullmatch(name) or not isinstance(value, bool | int | float | str | None):
                raise ValueError(f"{name} = {value!r} must be a number, a text or a truth value under a plain name")
        unknown = self.placeholders - {*self.facts(), RUN_FILE, FOLDER}
        if RUN_FILE not in self.placeholders or unknown:
            wrong = f"has no option {sorted(unknown)[0]!r}" if unknown else "has no {run_file}"
            raise ValueError(f"the command {wrong}; write for example: python train.py --seed {{seed}} -o {{run_file}}")
        return self

    @property
    def placeholders(self) -> set[str]:
        """The names in braces."""
        return {re.split(r"[.\[]", name)[0] for _, name, _, _ in Formatter().parse(self.command) if name is not None}

    def words(self, db_path: Path) -> list[str]:
        """Return the words of the command for a run file; `python` is the interpreter that runs this."""
        values = {**self.facts(), RUN_FILE: db_path.absolute(), FOLDER: db_path.parent.absolute()}
        words = [word.format_map(values) for word in shlex.split(self.command)]
        return [sys.executable, *words[1:]] if words[0] in ("python", "python3") else words


def run(config: CommandConfig, corpus: Corpus | None, db_path: Path, study: Study | None) -> None:
    """Run the program; an unfinished run file of an earlier try is removed first. Raises ConfigError if it fails."""
    remove(db_path)
    assigned = db_path.with_name("run.json")
    known = run_facts(config, db_path.parent.name, corpus) | (study.facts() if study else {})
    for name in ("hook", "precision", "exit_state", "started"):  # the callback in the program knows better
        del known[name]
    # As a user's options: a layer of the program's model may have options of its own under `config.`.
    facts = {re.sub(r"^config\.", "option.", name): value for name, value in known.items()}
    Assignment(facts, Thresholds().changed(config.thresholds)).write(assigned, db_path)
    words = config.words(db_path)
    try:
        code = subprocess.run(words, env=os.environ | {VARIABLE: str(assigned.absolute())}, check=False).returncode
    except OSError as error:
        raise ConfigError(f"command: {words[0]} cannot be started ({error.strerror}); give a program.") from error
    if code:
        raise ConfigError(f"command: {shlex.join(words)} ended with exit code {code}; its output says why.")
