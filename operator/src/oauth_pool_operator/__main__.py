"""`python -m oauth_pool_operator` is the console script."""

import sys

from oauth_pool_operator.cli import main

sys.exit(main())
