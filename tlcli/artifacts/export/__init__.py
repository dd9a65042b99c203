"""Exports of a bundle for other programs."""
