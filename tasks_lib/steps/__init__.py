"""The verbs, in order: fetch, repack, deliver (extract or place), prepare a toolchain.

Each step first adopts what the store holds; each is told its `Progress`; none knows doit.
"""

from tasks_lib.steps.artifacts import fetch, history, is_published, needs_network, published_by, repack
from tasks_lib.steps.extract import deliver, delivered_by, is_delivered, slot_of, start_over
from tasks_lib.steps.plan import Artifact, Delivery, Plan, Preparation
from tasks_lib.steps.toolchain import SKIPPED, is_prepared, prepare, prepared_by

__all__ = [
    "SKIPPED",
    "Artifact",
    "Delivery",
    "Plan",
    "Preparation",
    "deliver",
    "delivered_by",
    "fetch",
    "history",
    "is_delivered",
    "is_prepared",
    "is_published",
    "needs_network",
    "prepare",
    "prepared_by",
    "published_by",
    "repack",
    "slot_of",
    "start_over",
]
