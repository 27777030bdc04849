"""Inference engines that the worker runs in, each in a package of its own."""
