"""`python -m imitkd`: the same as the command `imitkd`."""

from __future__ import annotations

from imitkd.cli.main import main

if __name__ == "__main__":
    main()
