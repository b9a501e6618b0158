"""The tasks of this repository: `doit` makes the sample, `doit toolchain:NAME` anything else that is defined."""

from doit_fetch import DOIT_CONFIG, task_fetchdefs

DOIT_CONFIG = {**DOIT_CONFIG, "default_tasks": ["toolchain:sample", "fetch:greeter-packages"]}

__all__ = ["DOIT_CONFIG", "task_fetchdefs"]
