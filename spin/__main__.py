"""`python -m spin STAGE`: see `spin.cli`."""

import sys

from spin.cli import main

if __name__ == "__main__":
    sys.exit(main())
