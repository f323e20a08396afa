"""Tensor intrinsics: for each instruction a description, matched by ``tensorize``, and its implementation."""
