"""Backbones: which there are, their chain of stages, their weights.

`catalogue` answers without importing torch; `build` makes them.
"""
