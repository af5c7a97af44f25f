"""What a run will take before it is started: memory and time, from a recipe and the config of its model alone."""

from mmpo.plan.hardware import DEVICES, Device, counts, named
from mmpo.plan.planner import Line, Mend, Planner
from mmpo.plan.recipe import job_of, plan_for
from mmpo.plan.rows import stated

__all__ = ["DEVICES", "Device", "Line", "Mend", "Planner", "counts", "job_of", "named", "plan_for", "stated"]
