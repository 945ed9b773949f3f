"""A judgement in, a report out: JSON, text, JUnit XML, HTML, exit code."""
