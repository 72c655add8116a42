import sys

from oauth_pool_proxy.cli import main

sys.exit(main())
