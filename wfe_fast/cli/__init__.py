"""The command ``wfe-fast``. It needs the extra ``cli``; this module does not, so that it can say so."""

from __future__ import annotations

import sys

_NEEDED = ("click", "rich")


def main() -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C."""
    try:
        from wfe_fast.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        sys.stderr.write("wfe-fast: the commands need the extra 'cli': pip install 'wfe-fast[cli]'\n")
        return 2
    return run()
