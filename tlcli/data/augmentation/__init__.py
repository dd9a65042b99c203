"""Augmentation: random views of training images, and images mixed within a batch."""
