"""Octet's integer operators, as Relax operators."""
