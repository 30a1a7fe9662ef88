"""`python -m kltui`."""

import sys

from kltui.cli import main

if __name__ == "__main__":
    sys.exit(main())
