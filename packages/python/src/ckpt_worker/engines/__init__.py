"""Inference engines that the worker runs in, each in a separate package."""
