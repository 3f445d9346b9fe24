"""`python -m recurc`."""

from __future__ import annotations

from recurc.cli import main

if __name__ == "__main__":
    main()
