"""What runs and exports leave on the disk, and how it is read again."""
