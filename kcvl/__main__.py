"""`python -m kcvl` is `kcvl`."""

import sys

from kcvl import main

if __name__ == "__main__":
    sys.exit(main())
