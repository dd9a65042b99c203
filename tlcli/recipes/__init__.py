"""Whole jobs, each a page that reads from top to bottom: fine-tune, plan, export, check, demo."""
