"""`python -m oauth_pool_operator` is the console script."""

import sys

from .cli import main

sys.exit(main())
