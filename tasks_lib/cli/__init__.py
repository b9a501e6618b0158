"""The commands of doit and of the program `doit-fetch`."""
