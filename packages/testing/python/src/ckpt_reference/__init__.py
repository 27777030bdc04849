"""A reference engine: keeps its parameters like vLLM (fused, sliced over tensor-parallel ranks) and checks what it received."""
