"""Kept for scripts that earlier versions wrote beside an export; see `network`."""
