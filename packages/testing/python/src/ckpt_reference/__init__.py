"""A reference engine: keeps its parameters as vLLM does (fused, sliced over tensor-parallel ranks) and checks what it got."""
