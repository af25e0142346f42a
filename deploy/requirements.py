"""Print the requirements of pyproject.toml, one a line: the core's, then those of the extras named.

Lets an image install what psrv needs before it has psrv's code. Usage: requirements.py [EXTRA ...]
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *(line for name in sys.argv[1:] for line in extras[name]), sep="\n")
