"""Check the installation: versions, devices, processor settings, caches, and a tiny training step.

Exit status 0 if every check passes, 2 otherwise.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lmf_multitask.command_line import CommandParser, run
from lmf_multitask.runtime import tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Parses, checks, prints."""
    CommandParser(prog="lmf doctor", description=__doc__).parse_args(arguments)
    given = dict(os.environ)
    tune_cpu()

    from lmf_multitask.cache_folder import cache_folder, describe_cache
    from lmf_multitask.errors import InstallationError
    from lmf_multitask.installation import check_installation, package_versions, processor_facts, settings_in_force

    _print("versions", package_versions())
    _print("machine", processor_facts())
    _print("settings", settings_in_force(os.environ, given))
    _print("cache", {"converted data": f"{describe_cache(cache_folder())} (lmf data cache --clear empties it)"})
    print("checks")
    checks = check_installation(Path.cwd())
    for check in checks:
        print(f"  {'ok  ' if check.problem is None else 'FAIL'}  {check.what}: {check.problem or check.found or 'yes'}")
    failed = [check.what for check in checks if check.problem is not None]
    if failed:
        raise InstallationError(f"every check must pass, but {len(failed)} of {len(checks)} failed. See FAIL above.")


def _print(title: str, facts: dict[str, str]) -> None:
    width = max(map(len, facts))
    print(title)
    print("\n".join(f"  {name:<{width}}  {value}" for name, value in facts.items()) + "\n")


if __name__ == "__main__":
    sys.exit(run(main))
