"""Why a file cannot be judged: what was expected and found, why that happens, what to do.

RunFileError          a file that cannot be judged; `id` is the diagnostic's
+-- NotARun           empty, text, an image, an archive without runs: no SQLite database
+-- NotASet           a folder or address without a set of runs, or with a damaged one
+-- Truncated         cut short or damaged
+-- WrongSchema       a SQLite database that does not hold a run
+-- WalMissing        its rows were left behind in the -wal file
+-- TooLarge          over one of ReadLimits
+-- Unreadable        missing, forbidden, locked, or reading it broke or outlasted the child
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict

from validation.files.limits import ReadLimits
from validation.text import printable


class RunFileError(Exception):
    """A file that cannot be judged: what was seen, why that happens, what to do."""

    id = "unreadable"

    def __init__(self, name: str, evidence: str, cause: str, fix: str) -> None:
        super().__init__(f"{name}: {evidence}; {cause}. {fix}.")
        self.name, self.evidence, self.cause, self.fix = name, evidence, cause, fix

    def __reduce__(self) -> tuple[type[RunFileError], tuple[str, str, str, str]]:
        """What another process makes the same error of."""
        return type(self), (self.name, self.evidence, self.cause, self.fix)


class NotARun(RunFileError):
    """The file is no SQLite database."""

    id = "not_a_run"


class NotASet(RunFileError):
    """The folder or address does not hold a set of runs, or a damaged one, or one of another format."""

    id = "not_a_set"


class Truncated(RunFileError):
    """The file was cut short or damaged."""

    id = "truncated"


class WrongSchema(RunFileError):
    """The file is a SQLite database, but not a run."""

    id = "wrong_schema"


class WalMissing(RunFileError):
    """The file's rows were left behind in its -wal file."""

    id = "wal_missing"


class TooLarge(RunFileError):
    """The file is over one of ReadLimits."""

    id = "too_large"


class Unreadable(RunFileError):
    """The file is missing, forbidden or locked, or reading it broke or outlasted the child."""

    id = "unreadable"


RUN_HELP = "`python -m prismatic schema` prints what a run file holds"
WHOLE_COPY = "`python -m prismatic snapshot RUN`"
COPY_AGAIN = f"Copy or upload it again; {WHOLE_COPY} makes a whole copy of a run that is in progress"
CHOOSE = "Choose the dynamics.db in build/runs/HASH/, unpacked"
WRITE_FLOATS = "Write float(value), as DynamicsLogger does"

# code of reader.py, or of this module -> what it is, what was seen, why that happens, what to do
CASES: dict[str, tuple[type[RunFileError], str, str, str]] = {
    "checkpoint": (
        NotARun,
        "expected a run file (a SQLite database), found a PyTorch checkpoint (which is a zip archive)",
        "the weights of a model were chosen, not the gradients that were logged while it was trained",
        CHOOSE,
    ),
    "zip_without_runs": (
        NotARun,
        "expected a zip archive with run files (*.db or *.sqlite), found one with: {names}",
        "another archive was chosen, or the runs in it are packed once more",
        "Pack the dynamics.db files, the folder build/runs, or the whole folder of a set",
    ),
    "bad_set": (
        NotASet,
        "expected a sound set of runs, found damage ({problem})",
        "a part of it is missing, or was changed by a copy or an upload",
        "Pack its whole folder again, or write it anew with `python -m validation compact RUNS... -o DIR`",
    ),
    "damaged_zip": (
        Truncated,
        "expected a sound zip archive, found damage ({problem})",
        "the archive was cut short or changed by a copy or an upload",
        "Copy or upload it again, or choose the dynamics.db files in it",
    ),
    "damaged_member": (
        Truncated,
        "expected a member that can be unpacked, found damage ({problem})",
        "the archive was cut short or changed by a copy or an upload",
        "Copy or upload it again, or choose the dynamics.db file itself",
    ),
    "locked_member": (
        Unreadable,
        "expected a member without a password, found an encrypted one",
        "the archive was packed with a password",
        "Pack it without one, or choose the dynamics.db file itself",
    ),
    "not_unpacked": (
        Unreadable,
        "expected a member packed as zip usually is (deflate), found another way ({problem})",
        "the archive was made by a newer program, or with special options",
        "Pack it again with common options, or choose the dynamics.db file itself",
    ),
    "empty": (
        NotARun,
        "expected a run file (a SQLite database), found an empty file (0 bytes)",
        "the copy or upload failed, or nothing was logged yet",
        COPY_AGAIN,
    ),
    "not_sqlite": (
        NotARun,
        "expected a run file (a SQLite database), found {looks}",
        "another file was chosen, or this one was packed or changed on its way",
        CHOOSE,
    ),
    "truncated": (
        Truncated,
        "expected at least {expected} bytes, as a whole SQLite database has, found {size}",
        "the file was cut short by a copy, an upload or a full disk",
        COPY_AGAIN,
    ),
    "corrupt": (
        Truncated,
        "expected a sound SQLite database, found damage in `{table}` ({problem})",
        "the file was changed while it was copied, or its disk failed",
        COPY_AGAIN,
    ),
    "no_dynamics": (
        WrongSchema,
        "expected a table `dynamics`, found the tables: {tables}",
        "this database was not written by DynamicsLogger",
        f"Choose a dynamics.db; {RUN_HELP}",
    ),
    "not_a_table": (
        WrongSchema,
        "expected `{table}` to be a plain table, found a {kind}",
        "such things run code of the file's author when they are read",
        "Copy its rows into a plain table (CREATE TABLE ... AS SELECT)",
    ),
    "generated": (
        WrongSchema,
        "expected plain columns in `{table}`, found generated ones: {columns}",
        "such columns run code of the file's author when they are read",
        "Copy the rows into a plain table (CREATE TABLE ... AS SELECT)",
    ),
    "no_step": (
        WrongSchema,
        "expected a column `step` in `dynamics`, found: {columns}",
        "this table was not written by DynamicsLogger",
        f"Name the column of optimizer steps `step`; {RUN_HELP}",
    ),
    "no_experts": (
        WrongSchema,
        "expected columns like expert_0_top_norm in `dynamics`, found: {columns}",
        "this table was not written by DynamicsLogger",
        f"Log at least one tier norm of each expert; {RUN_HELP}",
    ),
    "only_means": (
        WrongSchema,
        "expected norms like expert_0_top_norm in `dynamics`, found means of gradient entries: {columns}",
        "a mean says nothing about the size of a gradient: entries of opposite sign cancel in it",
        f"Log at least one tier norm of each expert; {RUN_HELP}",
    ),
    "no_known_columns": (
        WrongSchema,
        "expected known columns in `{table}`, found: {columns}",
        "another program wrote this table",
        f"Name its columns as the schema does; {RUN_HELP}",
    ),
    "bad_step": (
        WrongSchema,
        "expected an integer in every row's `step`, found {type} ({value})",
        "the column `step` orders the rows, so none can do without it",
        "Write int(step), as DynamicsLogger does",
    ),
    "bad_value": (
        WrongSchema,
        "expected numbers in column `{column}` of `{table}`, found {type} ({value}) at step {step}",
        "SQLite keeps any type in any column, so the writer stored it as it came",
        WRITE_FLOATS,
    ),
    "numpy_value": (
        WrongSchema,
        "expected numbers in column `{column}` of `{table}`, found a BLOB of {bytes} bytes ({value}) at step {step}",
        "this is what a numpy.float32 (or another NumPy number) becomes when it is written without float()",
        WRITE_FLOATS,
    ),
    "wal_missing": (
        WalMissing,
        "expected logged rows, found none, and the file is in WAL mode without its -wal file",
        "the rows were still in dynamics.db-wal, which was not copied or uploaded with the file",
        f"Make a whole file with {WHOLE_COPY} where it was written, and choose that",
    ),
    "too_large": (
        TooLarge,
        "expected at most {most} (limit `{limit}`), found more",
        "the run was logged finely or for very long, or the file is not a run",
        "Log more rarely (log_freq), or leave out what is not needed",
    ),
    "together": (
        TooLarge,
        "expected them to fit into {most} of memory, found that they do not",
        "many long runs were chosen at once",
        "Choose fewer at once",
    ),
    "timeout": (
        Unreadable,
        "expected it to be read within {seconds} seconds (limit `seconds`), found it still being read",
        "the file is very large, damaged, or made to be slow",
        "Try again on an idle machine, or log more rarely (log_freq)",
    ),
    "died": (
        Unreadable,
        "expected values, found that the process that reads files ended ({problem})",
        "the file is damaged or hostile, or the machine ran out of memory",
        COPY_AGAIN,
    ),
    "locked": (
        Unreadable,
        "expected to read it, found it locked by another program",
        "a writer keeps a transaction open",
        "Try again when the writer is done",
    ),
    "unfinished": (
        Unreadable,
        "expected a finished database, found a -journal file with an unfinished write beside it",
        "the program that wrote it was killed",
        f"Make a whole file where it was written, which rolls that write back: {WHOLE_COPY}",
    ),
    "missing": (Unreadable, "expected a file, found nothing there", "it was moved or its name misspelt", CHOOSE),
    "special": (Unreadable, "expected a file, found a device or pipe", "only regular files can be runs", CHOOSE),
    "no_files": (
        Unreadable,
        "expected a folder with files named dynamics.db at any depth, found none",
        "another folder was chosen, or nothing was logged yet",
        "Choose build/runs, or a dynamics.db itself",
    ),
    "system": (
        Unreadable,
        "expected to read it, found that the system refuses ({problem})",
        "permissions or the disk forbid it",
        "Allow this program to read it, or copy it",
    ),
    "unexpected": (
        Unreadable,
        "expected a run file, found what no reader could make sense of ({problem})",
        "the file is damaged, hostile, or newer than this program's SQLite",
        COPY_AGAIN,
    ),
}


def explained(
    code: object, details: object, *, limits: ReadLimits, table: str = "dynamics"
) -> tuple[type[RunFileError], str, str, str]:
    """Kind and sentences of a rejection; `code` and `details` come from the child and may be anything."""
    facts = {"table": table, "seconds": limits.seconds, **(details if isinstance(details, dict) else {})}
    facts.setdefault("most", asdict(limits).get(str(facts.get("limit"))))
    if code == "bad_value" and facts.get("type") == "BLOB" and facts.get("bytes") in (4, 8):
        code = "numpy_value"
    kind, evidence, cause, fix = CASES.get(str(code), CASES["unexpected"])
    words = defaultdict(lambda: "?", {str(key): printable(value, 200) for key, value in facts.items()})
    return kind, evidence.format_map(words), cause, fix


def rejection(name: str, code: str, limits: ReadLimits, **details: object) -> RunFileError:
    kind, evidence, cause, fix = explained(code, details, limits=limits)
    return kind(name, evidence, cause, fix)
