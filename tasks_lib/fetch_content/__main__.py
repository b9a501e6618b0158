"""Run as `python -u -m tasks_lib.fetch_content`, or by the path of this file."""

import sys

from tasks_lib.fetch_content.command import main

sys.exit(main())
