"""Backends for trainers' own interfaces: verl, NeMo-RL, TRL, slime and Miles, vLLM's weight transfer. See docs/trainers.md."""
