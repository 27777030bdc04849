"""Where the rank program is: in the platform wheel, in a bundle, or in a checkout of the repository."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from .errors import error

#: Names the directory of a bundle (``npm run bundle``) whose rank program is used.
VARIABLE: Final = "CKPT_BUNDLE"
_PACKAGE: Final = Path(__file__).resolve().parent
#: Where the platform wheel has its bundle.
_IN_WHEEL: Final = _PACKAGE / "_bundle"
_SOURCE: Final = "apps/rank/src/main.ts"


def rank_program() -> list[str]:
    """Returns the command line that starts the rank program, without its arguments.

    :raises RankError: ``ADDON_UNAVAILABLE`` if there is none, with the places that were searched and the remedy.
    """
    named = os.environ.get(VARIABLE)
    if named:
        command = _of_bundle(Path(named))
        if command is None:
            raise error("ADDON_UNAVAILABLE", f"{VARIABLE}={named} is not a bundle: it has no lib/rank.mjs", field=VARIABLE)
        return command
    # A bundle has this package in python/.
    for bundle in (_IN_WHEEL, _PACKAGE.parents[1]):
        command = _of_bundle(bundle)
        if command is not None:
            return command
    if len(_PACKAGE.parents) > 3 and (_PACKAGE.parents[3] / _SOURCE).exists():
        return _of_checkout(_PACKAGE.parents[3])
    raise error(
        "ADDON_UNAVAILABLE",
        f"this installation of ckpt has no rank program ({_IN_WHEEL} does not exist): install the wheel of this platform, "
        f"or name a bundle's directory in {VARIABLE}",
        field=VARIABLE,
    )


def _of_bundle(bundle: Path) -> list[str] | None:
    program, node = bundle / "lib" / "rank.mjs", bundle / "bin" / "ckpt-node"
    # By the shell: not every installer keeps the permission to execute.
    return ["/bin/sh", str(node), str(program)] if program.exists() and node.exists() else None


def _of_checkout(root: Path) -> list[str]:
    node = os.environ.get("CKPT_NODE") or shutil.which("node")
    loader = root / "node_modules" / "tsx" / "dist" / "loader.mjs"
    if node is None:
        raise error("ADDON_UNAVAILABLE", "starting the rank program from its source needs Node on the PATH, or in CKPT_NODE")
    if not loader.exists():
        raise error("ADDON_UNAVAILABLE", f"{loader} is missing: run `npm run setup` in {root}", file=str(loader))
    return [node, "--import", loader.as_uri(), "--conditions=@ckpt/source", str(root / _SOURCE)]
