"""One job on several processes, started by torchrun: the group, its collectives and sharding."""
