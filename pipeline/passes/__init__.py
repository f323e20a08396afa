"""Relax passes, one a file. ``pipeline.passes.integer`` makes the graph integer, ``lowering`` lists what follows."""
