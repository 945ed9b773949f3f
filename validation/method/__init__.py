"""The method in words: the lines of the decision table, and the terms. docs/verdict.md has the same, word for word."""
