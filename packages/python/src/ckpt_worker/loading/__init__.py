"""Buckets from the ring into tensors: ring memory, digests, copies, and the order of work on a GPU."""
