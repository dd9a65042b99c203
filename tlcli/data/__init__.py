"""Folders of images: finding, splitting, decoding, and tensors of one size.

Nothing is imported here: listing a folder must not wait for torch.
"""
