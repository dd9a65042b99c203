"""How good predictions are, and how sure they may be."""
