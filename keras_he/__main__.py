"""Runs the command line: `python -m keras_he`."""

import sys

from keras_he.cli import main

if __name__ == "__main__":
    sys.exit(main())
