"""Simulated vendors: byte-exact evidence under roots of their own. It protects nobody."""
