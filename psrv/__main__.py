"""``python -m psrv`` is the ``psrv`` command."""

import sys

from psrv.cli import main

if __name__ == "__main__":
    sys.exit(main())
