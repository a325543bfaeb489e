"""``python -m sparsum`` and the command ``sparsum``: starts the program that the wheel brings."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Replaces this process by the program, with the same arguments."""
    # The package's own folder has the program in a wheel; a build tree has it beside python/.
    here = Path(__file__).absolute().parent
    for program in (here / "bin" / "sparsum", here.parent.parent / "sparsum"):
        if program.is_file() and os.access(program, os.X_OK):
            os.execv(program, ["sparsum", *sys.argv[1:]])
    sys.exit("sparsum: this copy of the package was built without the program")


if __name__ == "__main__":
    main()
