"""A trained model in use: open it, predict with it, evaluate it on labeled images."""
