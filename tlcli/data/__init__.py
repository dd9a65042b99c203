"""Folders of images: finding, splitting, decoding, augmenting, and batches of tensors.

Nothing is imported here, so that listing a folder needs no torch.
"""
