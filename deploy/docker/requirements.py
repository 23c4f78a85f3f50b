"""Prints what extras of pyproject.toml require, a line each, so that an image can install that
before the project's own files: `python requirements.py teacher trainer`."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
print("\n".join(project["dependencies"] + [r for name in sys.argv[1:] for r in extras[name]]))
