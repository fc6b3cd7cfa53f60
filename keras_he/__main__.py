"""Runs the command line: `python -m keras_he`."""

import sys

from keras_he.command import main

if __name__ == "__main__":
    sys.exit(main())
