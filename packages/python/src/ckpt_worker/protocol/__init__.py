"""The worker protocol: messages, the connection to a rank, mutual authentication. See docs/worker-protocol.md.

Nothing here needs torch.
"""
