"""What the machine offers: devices, threads, memory, random state and distributed processes."""
