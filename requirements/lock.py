"""Write constraints.txt beside this file: one version of every package that any extra of Octet needs.

``python requirements/lock.py python3.10 python3.11 python3.12 python3.13`` asks pip under each interpreter to resolve
pyproject.toml with all extras (nothing is installed) and merges the answers; a package whose version differs between
interpreters gets one line for each, with a marker.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXTRAS = "test,tune,experiments,train,peers"
HEADER = f"""\
# Every package that Octet with all its extras ({EXTRAS}) installs, at one version.
# Written by `make lock`; do not edit. Used by `make setup` as `pip install -c requirements/constraints.txt`.
"""


def resolve(python: str) -> tuple[str, dict[str, str]]:
    """The interpreter's ``major.minor`` and its package versions by normalised name."""
    with tempfile.TemporaryDirectory() as folder:
        environment = f"{folder}/venv"
        report = f"{folder}/report.json"
        subprocess.run([python, "-m", "venv", environment], check=True)
        pip = [f"{environment}/bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "-r", f"{HERE}/build.txt"], check=True)
        options = ["--dry-run", "--ignore-installed", "--no-build-isolation", "--report", report]
        subprocess.run([*pip, *options, f"{HERE.parent}[{EXTRAS}]"], check=True)
        answer = json.loads(Path(report).read_text())
    version = answer["environment"]["python_version"]
    packages = {}
    for item in answer["install"]:
        name = item["metadata"]["name"].lower().replace("_", "-").replace(".", "-")
        # A local suffix such as "+cpu" names a build that not every index has; the public version matches it as well.
        packages[name] = item["metadata"]["version"].split("+")[0]
    del packages["octet"]
    return version, packages


def merge(resolutions: dict[str, dict[str, str]]) -> list[str]:
    """Constraint lines, sorted; ``resolutions`` maps Python versions, oldest first, to their packages."""
    lines = []
    newest = list(resolutions)[-1]
    for name in sorted(set().union(*resolutions.values())):
        versions: dict[str, list[str]] = {}
        for python, packages in resolutions.items():
            if name in packages:
                versions.setdefault(packages[name], []).append(python)
        for version, pythons in versions.items():
            # The newest Python's versions also serve later ones.
            marker = " or ".join(
                f"python_version {'>=' if python == newest else '=='} '{python}'" for python in pythons
            )
            lines.append(f"{name}=={version}" + (f"; {marker}" if len(versions) > 1 else ""))
    return lines


def main(interpreters: list[str]) -> None:
    """Resolve under each interpreter and write the file."""
    if not interpreters:
        sys.exit("usage: lock.py PYTHON...   (one interpreter for each Python version that Octet supports)")
    lines = merge(dict(resolve(python) for python in interpreters))
    (HERE / "constraints.txt").write_text(HEADER + "\n".join(lines) + "\n")
    print(f"{len(lines)} lines in {HERE / 'constraints.txt'}")


if __name__ == "__main__":
    main(sys.argv[1:])
