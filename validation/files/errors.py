"""Errors of reading run files and their sentences: not a run, damaged, uploaded without its -wal file, too large.

RunFileError          a file that cannot be judged; `id` is the diagnostic's
+-- NotARun           empty, text, an image, an archive without runs: not a SQLite database
+-- NotASet           a folder or address without a set of runs, or with a damaged one
+-- Truncated         cut short or damaged
+-- WrongSchema       a SQLite database that does not hold a run
+-- WalMissing        uploaded or copied without its -wal file, which still held its rows
+-- TooLarge          over one of ReadLimits
+-- Unreadable        missing, forbidden, locked, or reading it broke the child process or took too long
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict

from validation.files.limits import ReadLimits
from validation.text import printable


class RunFileError(Exception):
    """A file that cannot be judged: the evidence, the likely cause and the fix."""

    id = "unreadable"

    def __init__(self, name: str, evidence: str, cause: str, fix: str) -> None:
        super().__init__(f"{name}: {evidence}; {cause}. {fix}.")
        self.name, self.evidence, self.cause, self.fix = name, evidence, cause, fix

    def renamed(self, name: str) -> RunFileError:
        """Return the same error under another name of the file."""
        return type(self)(name, self.evidence, self.cause, self.fix)

    def __reduce__(self) -> tuple[type[RunFileError], tuple[str, str, str, str]]:
        """Return the parts from which another process builds the same error."""
        return type(self), (self.name, self.evidence, self.cause, self.fix)


class NotARun(RunFileError):
    """The file is not a SQLite database."""

    id = "not_a_run"


class NotASet(RunFileError):
    """The folder or address does not hold a set of runs, or holds a damaged one, or one of another format."""

    id = "not_a_set"


class Truncated(RunFileError):
    """The file was cut short or damaged."""

    id = "truncated"


class WrongSchema(RunFileError):
    """The file is a SQLite database, but not a run."""

    id = "wrong_schema"


class WalMissing(RunFileError):
    """The file was uploaded or copied without its -wal file, which still held its rows."""

    id = "wal_missing"


class TooLarge(RunFileError):
    """The file is over one of ReadLimits."""

    id = "too_large"


class Unreadable(RunFileError):
    """The file is missing, forbidden or locked, or reading it broke the child process or took too long."""

    id = "unreadable"


RUN_HELP = "`prismatic schema` prints the tables and columns of a run file"
WHOLE_COPY = "`prismatic snapshot RUN`"
COPY_AGAIN = f"Copy or upload it again; {WHOLE_COPY} makes a complete copy of a run that is being trained"
CHOOSE = "Choose the unpacked dynamics.db in build/runs/HASH/"
WRITE_FLOATS = "Write float(value), as DynamicsLogger does"

# Code of sqlite_worker.py, zip_worker.py or this package -> class, evidence, likely cause, fix.
CASES: dict[str, tuple[type[RunFileError], str, str, str]] = {
    "checkpoint": (
        NotARun,
        "expected a run file (a SQLite database), found a PyTorch checkpoint (a zip archive)",
        "a checkpoint holds a model's weights, not the gradients that were logged while it was trained",
        CHOOSE,
    ),
    "zip_without_runs": (
        NotARun,
        "expected a zip archive with run files (*.db or *.sqlite), found one with: {names}",
        "this is another archive, or its runs are in archives inside it",
        "Pack the dynamics.db files, the folder build/runs, or the whole folder of a set",
    ),
    "bad_set": (
        NotASet,
        "expected an intact set of runs, found damage ({problem})",
        "a part of it is missing, or a copy or an upload changed it",
        "Pack its whole folder again, or write it again with `prismatic compact RUNS... -o DIR`",
    ),
    "damaged_zip": (
        Truncated,
        "expected an intact zip archive, found damage ({problem})",
        "a copy or an upload cut the archive short or changed it",
        "Copy or upload it again, or choose the dynamics.db files in it",
    ),
    "damaged_member": (
        Truncated,
        "expected a file that can be unpacked, found damage ({problem})",
        "a copy or an upload cut the archive short or changed it",
        "Copy or upload the archive again, or choose the dynamics.db file itself",
    ),
    "locked_member": (
        Unreadable,
        "expected a file without a password, found an encrypted one",
        "the archive was packed with a password",
        "Pack it without one, or choose the dynamics.db file itself",
    ),
    "not_unpacked": (
        Unreadable,
        "expected a common zip compression (deflate), found another one ({problem})",
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
        "this is another file, or the run was packed or changed on its way",
        CHOOSE,
    ),
    "truncated": (
        Truncated,
        "expected at least {expected} bytes, as in a complete SQLite database, found {size}",
        "a copy, an upload or a full disk cut the file short",
        COPY_AGAIN,
    ),
    "corrupt": (
        Truncated,
        "expected an intact SQLite database, found damage in `{table}` ({problem})",
        "the file was written while it was copied, or its disk failed",
        COPY_AGAIN,
    ),
    "no_dynamics": (
        WrongSchema,
        "expected a table `dynamics`, found the tables: {tables}",
        "DynamicsLogger did not write this database",
        f"Choose a dynamics.db; {RUN_HELP}",
    ),
    "not_a_table": (
        WrongSchema,
        "expected `{table}` to be a plain table, found a {kind}",
        "reading it would run code of the file's author",
        "Copy its rows into a plain table (CREATE TABLE ... AS SELECT)",
    ),
    "generated": (
        WrongSchema,
        "expected plain columns in `{table}`, found generated ones: {columns}",
        "reading them would run code of the file's author",
        "Copy the rows into a plain table (CREATE TABLE ... AS SELECT)",
    ),
    "no_step": (
        WrongSchema,
        "expected a column `step` in `dynamics`, found: {columns}",
        "DynamicsLogger did not write this table",
        f"Name the column of optimizer steps `step`; {RUN_HELP}",
    ),
    "no_experts": (
        WrongSchema,
        "expected columns like expert_0_top_norm in `dynamics`, found: {columns}",
        "DynamicsLogger did not write this table",
        f"Log at least one tier norm of each expert; {RUN_HELP}",
    ),
    "no_router": (
        WrongSchema,
        "expected columns like expert_0_top_norm in `dynamics`, found: {columns}",
        "DynamicsLogger wrote this file and got no expert to log: the model has no layer of experts that it knows",
        "Read the warning `no_router` of that training, which names what was looked for and the ways on; "
        "docs/experts.md lists the mixtures that are found",
    ),
    "only_means": (
        WrongSchema,
        "expected norms like expert_0_top_norm in `dynamics`, found means of gradient entries: {columns}",
        "a mean does not measure the size of a gradient, because entries of opposite sign cancel",
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
        "the rows are ordered by `step`, so every row needs one",
        "Write int(step), as DynamicsLogger does",
    ),
    "bad_value": (
        WrongSchema,
        "expected numbers in column `{column}` of `{table}`, found {type} ({value}) at step {step}",
        "SQLite stores any type in any column, as the writer passed it",
        WRITE_FLOATS,
    ),
    "numpy_value": (
        WrongSchema,
        "expected numbers in column `{column}` of `{table}`, found a BLOB of {bytes} bytes ({value}) at step {step}",
        "SQLite stores a numpy.float32 (or another NumPy number) as bytes unless it is converted with float()",
        WRITE_FLOATS,
    ),
    "bad_array": (
        WrongSchema,
        "expected {expected} in column `{column}` of `{table}`, little-endian float32, found {found} at step {step}",
        "a row was cut short or changed, or another program wrote it",
        f"Write one float32 for each expert or pair, as DynamicsLogger does; {RUN_HELP}",
    ),
    "no_packed_layers": (
        WrongSchema,
        "expected the experts' numbers in `packed_layers`, found only means by role in `dynamics` ({problem})",
        "the table was removed or could not be read, or nothing was logged to it",
        COPY_AGAIN,
    ),
    "wal_missing": (
        WalMissing,
        "expected logged rows, found none, and the file is in WAL mode without its -wal file",
        "the rows were still in dynamics.db-wal, which was not copied or uploaded with the file",
        f"Make a complete file with {WHOLE_COPY} where it was written, and choose that",
    ),
    "too_large": (
        TooLarge,
        "expected at most {most} (limit `{limit}`), found more",
        "the run was logged often or for very long, or the file is not a run",
        "Log less often (log_freq), or log fewer values",
    ),
    "together": (
        TooLarge,
        "expected runs that fit into {most} of memory together, found larger ones",
        "many long runs were chosen at once",
        "Choose fewer runs",
    ),
    "timeout": (
        Unreadable,
        "expected a file that can be read within {seconds} seconds (limit `seconds`), but reading did not end",
        "the file is very large, damaged, or made to be slow",
        "Try again on an idle machine, or log less often (log_freq)",
    ),
    "died": (
        Unreadable,
        "expected logged rows, but the process that reads files ended ({problem})",
        "the file is damaged or hostile, or the machine ran out of memory",
        COPY_AGAIN,
    ),
    "locked": (
        Unreadable,
        "expected a readable file, found it locked by another program",
        "a program that writes it keeps a transaction open",
        "Try again when that program has finished",
    ),
    "unfinished": (
        Unreadable,
        "expected a complete database, found a -journal file with an unfinished write beside it",
        "the program that wrote it was killed",
        f"Make a complete file where it was written, which rolls that write back: {WHOLE_COPY}",
    ),
    "missing": (
        Unreadable,
        "expected a file, found nothing there",
        "it was moved, or the path is mistyped",
        CHOOSE,
    ),
    "nobody_waits": (
        Unreadable,
        "expected somebody to wait for this file, found the page closed",
        "the session has ended",
        "Open the page and choose the file again",
    ),
    "replaced": (
        Unreadable,
        "expected one file, found another one in its place while it was read",
        "a program replaced the file meanwhile",
        "Read it again",
    ),
    "dangling": (
        Unreadable,
        "expected a file, found a link to nothing",
        "the file that it stands for was moved or removed",
        CHOOSE,
    ),
    "folder": (
        Unreadable,
        "expected a file, found a folder of that name",
        "it was made by hand, or another program keeps its files there",
        CHOOSE,
    ),
    "closed_folder": (
        Unreadable,
        "expected a folder that can be searched for runs, but the system refuses to list it ({problem})",
        "its permissions forbid it",
        "Allow this program to read it, or choose the folders with runs in it",
    ),
    "special": (
        Unreadable,
        "expected a file, found a device or pipe",
        "only regular files can be runs",
        CHOOSE,
    ),
    "special_beside": (
        Unreadable,
        "expected the files that SQLite makes, found {beside}, a device, a folder or a pipe",
        "it was made by hand: SQLite makes regular files",
        "Move it away",
    ),
    "no_files": (
        Unreadable,
        "expected a folder with files named dynamics.db, or other *.db files, at any depth, found none",
        "this is another folder, or nothing was logged yet",
        "Choose build/runs, or a dynamics.db itself",
    ),
    "system": (
        Unreadable,
        "expected a readable file, but the system refuses to read it ({problem})",
        "permissions or the disk forbid it",
        "Allow this program to read it, or copy it",
    ),
    "unexpected": (
        Unreadable,
        "expected a run file, found something that cannot be read ({problem})",
        "the file is damaged, hostile, or newer than this program's SQLite",
        COPY_AGAIN,
    ),
}


def explain(
    code: object, details: object, *, limits: ReadLimits, table: str = "dynamics"
) -> tuple[type[RunFileError], str, str, str]:
    """Return the class and sentences of a rejection; `code` and `details` come from the child and may be anything."""
    facts = {"table": table, "seconds": limits.seconds, **(details if isinstance(details, dict) else {})}
    facts.setdefault("most", asdict(limits).get(str(facts.get("limit"))))
    if code == "bad_value" and facts.get("type") == "BLOB" and facts.get("bytes") in (4, 8):
        code = "numpy_value"
    kind, evidence, cause, fix = CASES.get(str(code), CASES["unexpected"])
    words = defaultdict(lambda: "?", {str(key): printable(value, 200) for key, value in facts.items()})
    return kind, evidence.format_map(words), cause, fix


def rejection(name: str, code: str, limits: ReadLimits, **details: object) -> RunFileError:
    """Return the error for a file, by the code of one of CASES and the facts that its sentences name."""
    kind, evidence, cause, fix = explain(code, details, limits=limits)
    return kind(name, evidence, cause, fix)
