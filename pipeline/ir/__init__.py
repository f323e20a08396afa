"""Octet's integer operators as Relax operators, and the graph that passes read and rebuild."""
