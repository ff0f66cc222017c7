"""`python -m flows [STAGE ...]`: see `flows.console`."""

import sys

from flows.console import main

if __name__ == "__main__":
    sys.exit(main())
