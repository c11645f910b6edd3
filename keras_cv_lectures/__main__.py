"""`python -m keras_cv_lectures` is `kcvl`."""

import sys

from keras_cv_lectures.cli import main

if __name__ == "__main__":
    sys.exit(main())
