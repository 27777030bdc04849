"""Names the platform of a wheel that has the rank program in it (``npm run wheels``); without, it is for any platform."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_MACHINES = {"x64": "x86_64", "arm64": "aarch64"}


class PlatformHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        manifest = Path(self.root) / "src/ckpt/_bundle/MANIFEST.json"
        if version == "editable" or not manifest.exists():
            return
        bundle = json.loads(manifest.read_text())
        system, machine = bundle["platform"].split("-")
        glibc = bundle["needs"]["glibc"].replace(".", "_")
        if system != "linux":
            raise ValueError(f"there are no wheels for {system}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_{glibc}_{_MACHINES[machine]}"
