"""The entry point of `python -m prismatic`; the commands are collected in cli.py."""

import sys

from prismatic.cli import main

if __name__ == "__main__":
    sys.exit(main())
