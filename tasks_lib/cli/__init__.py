"""The commands of doit and of the program `doit-fetch`."""

import gc

# new objects between two garbage collections: what a command creates lives to its end, and 700 are those of one task
gc.set_threshold(20_000, *gc.get_threshold()[1:])
