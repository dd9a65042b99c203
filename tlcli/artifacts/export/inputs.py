"""The inputs that an exported graph may take."""

IMAGE = "image"
"""Images of any size; resizing and cropping are in the graph."""
PIXELS = "pixels"
"""Images that are resized and cropped to the network's size already."""
INPUTS = (IMAGE, PIXELS)
