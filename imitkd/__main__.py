"""`imitkd` and `python -m imitkd`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the process's command line; Ctrl-C is no traceback even while modules are read."""
    try:
        from imitkd.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
