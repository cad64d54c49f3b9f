"""The faults that a test or a client of the control URL injects: ``cluster.faults``.

Never here: a wait for the effect of a fault. Seconds are real seconds in all faults.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.doubles.kubernetes.faults.control_plane import ControlPlaneFaults
from tests.doubles.kubernetes.faults.nodes import NodeFaults
from tests.doubles.kubernetes.faults.pods import PodFaults


@dataclass(kw_only=True)
class Faults(ControlPlaneFaults, NodeFaults, PodFaults):
    """All faults of one cluster."""
