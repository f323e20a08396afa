"""Schedule search: finds the knobs with which a target runs the convolutions of networks fastest, and keeps them.

``records`` is all that the compiler needs of it; the rest is imported by :func:`pipeline.tune`.
"""

RECORDS_FOLDER = "tuning_logs"
"""Where records are kept and looked for, one folder a target in it."""

LOGS_FOLDER = "build/tuning"
"""Where measurements are logged, which a search goes on from."""

TRIALS = 64
"""Measurements a task."""
