"""``python -m wfe_fast`` is ``wfe-fast``."""

import sys

from wfe_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
