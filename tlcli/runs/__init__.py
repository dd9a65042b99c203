"""The life of one run: its options, how it starts or is resumed, and the files that it writes."""
