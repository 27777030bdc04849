"""From buckets in the ring to tensors: ring memory, digests, copies, and the order of work on a GPU."""
