"""Tensor expressions of the integer operators, one module a family."""
