"""What an integer operator computes (``schedules.compute``) and how a target runs it (``schedules.x86``).

Nothing here knows about Relax or ONNX: a kernel is made from a problem, a small frozen dataclass of numbers, and comes
back as a scheduled TensorIR function.
"""
