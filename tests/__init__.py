"""Tests of the house; one module per module of tasks_lib, plus journeys."""
