"""The worker protocol: messages, the connection to a rank, how both sides prove who they are. See docs/worker-protocol.md.

Nothing here needs torch.
"""
