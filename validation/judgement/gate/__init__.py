"""The gate: keep a claim, discard it, or train so many more seeds. For builds and agents that ask again and again."""
