"""`python -u -m tasks_lib.fetch_content`, and this file by its path."""

import sys

from tasks_lib.fetch_content.command import main

sys.exit(main())
