"""Features of frozen stages: computed once per view of an image, cached, and read in training."""
