"""doit adapted: loader, runner, state database, reporter and signals. One of four packages that import doit."""
