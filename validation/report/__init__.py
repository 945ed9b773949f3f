"""Reports of a verdict: text, JSON, JUnit XML, HTML and Markdown, and the exit code."""
