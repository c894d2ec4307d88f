"""`python -m benchmarks COMMAND`."""

import sys

from benchmarks import signals

if __name__ == "__main__" and sys.argv[1:2] in (["fit"], ["ensemble"]):
    signals.listen()  # before the slow imports

from benchmarks.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
