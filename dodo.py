"""The porch: wires the world, exposes the tasks."""
