"""`python -m validation`: the commands of the judging side, without an installed `prismatic`."""

import sys

from validation.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
