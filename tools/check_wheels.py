"""Ask the registry whether every package of constraints.txt has a wheel for each system we name, and write a table.

Usage: python tools/check_wheels.py reports/machines/wheels.csv

uv resolves, and not pip: pip evaluates markers (python_full_version, sys_platform) for the Python that runs it,
whatever --python-version and --platform say, so it would neither see that 3.11.0 is too old for a package that needs
3.11.5 nor which packages Windows adds. uv evaluates both for the target.
"""
import csv
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser

PYTHONS = ("3.11.0", "3.12.0", "3.13.0", "3.14.0")  # the oldest release of each: what it can have, later ones can too
PLATFORMS = {"Linux x86_64": "x86_64-manylinux_2_28", "Linux aarch64": "aarch64-manylinux_2_28",
             "macOS 14 arm64": "aarch64-apple-darwin", "Windows amd64": "x86_64-pc-windows-msvc"}
IMPOSSIBLE = {("tensorflow", "3.14.0"): "TensorFlow has no wheel"}  # not an error: the maker offers nothing


def resolve(requirements, python, platform):
    """The packages that would be installed, one a line, and an error or ""; nothing is built or installed."""
    command = ["uv", "pip", "compile", "-", "--quiet", "--no-config", "--no-header", "--no-annotate", "--only-binary",
               ":all:", "--constraints", "constraints.txt", "--python-version", python, "--python-platform",
               PLATFORMS[platform]]
    done = subprocess.run(command, input=requirements, capture_output=True, text=True, timeout=600,
                          env={**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"})
    reason = re.search(r"Because (.+?)(,| and | we can)", " ".join(done.stderr.split()))
    return done.stdout.splitlines(), "" if done.returncode == 0 else (reason[1] if reason else done.stderr.strip())


def unpinned(packages):
    """Packages that constraints.txt does not name: their version is whatever is newest."""
    with open("constraints.txt", encoding="utf-8") as file:
        pinned = {line.split("==")[0] for line in file if "==" in line}
    return {package.split("==")[0] for package in packages} - pinned


config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
extras = [name.removesuffix("_requirements") for name in settings if name.endswith("_requirements")]
rows = [(platform, extra) for platform in PLATFORMS for extra in ["", *extras]]


def cell(place):
    """What stands in one cell of the table, and whether it is a fault."""
    (platform, extra), python = place
    wanted = settings["requirements"] + (settings[f"{extra}_requirements"] if extra else "")
    packages, error = resolve(wanted, python, platform)
    if not error:
        return f"{len(packages)} wheels", "", unpinned(packages)
    if (extra, python) in IMPOSSIBLE:
        return IMPOSSIBLE[extra, python], "", set()
    return f"no: {error}", f"{platform}, {extra or 'base'}, Python {python}: {error}", set()


places = [(row, python) for row in rows for python in PYTHONS]
with ThreadPoolExecutor(4) as pool:
    cells = dict(zip(places, pool.map(cell, places), strict=True))
with open(sys.argv[1], "w", newline="", encoding="utf-8") as file:
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["platform", "installed", *(f"Python {python}" for python in PYTHONS)])
    for platform, extra in rows:
        name = f"base and {extra}" if extra else "base"
        table.writerow([platform, name, *(cells[(platform, extra), python][0] for python in PYTHONS)])
faults = [fault for _, fault, _ in cells.values() if fault]
loose = set().union(*(names for _, _, names in cells.values()))
print(*faults, f"{len(cells) - len(faults)} of {len(cells)} are as they should be",
      f"not pinned: {', '.join(sorted(loose)) or 'none'}", sep="\n")
sys.exit(bool(faults))
