"""Plug-in for SGLang (entry point ``sglang.srt.plugins``)."""

from .plugin import register

__all__ = ["register"]
