"""Where the time of a compiled library goes, operator by operator, and what this machine could do at best.

``kernel_clock`` takes the time of each call inside the virtual machine; ``limits`` measures the CPU, and ``roofline``
remembers it; ``profiler`` puts the two together; ``report``, ``figure`` and ``canvas`` show the result.
"""

from __future__ import annotations

from pipeline.profiling.figure import write_figure
from pipeline.profiling.profiler import OperatorTime, Profile, profile
from pipeline.profiling.report import to_json, to_text
from pipeline.profiling.roofline import Roofline, find_roofline

__all__ = ["OperatorTime", "Profile", "Roofline", "find_roofline", "profile", "to_json", "to_text", "write_figure"]
