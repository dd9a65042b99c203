"""Backbones: the catalogue, the families and their stages, building, weights, and cutting.

`catalogue` needs no torch; `build` builds and loads a backbone; `network` cuts it for a plan.
"""
