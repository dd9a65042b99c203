"""A trained model in use: opened, asked for predictions, evaluated on labeled images."""
