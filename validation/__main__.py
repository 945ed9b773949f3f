"""python -m validation: the judging side's command line."""

import sys

from validation.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
