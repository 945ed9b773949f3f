"""The Compare page: several runs by groups, by dose, beside their sham runs, in pairs, and in one table."""

from ui.layout.shell import shell_all_runs
from ui.sections.compare.page import compare

compare(shell_all_runs("Compare"))
