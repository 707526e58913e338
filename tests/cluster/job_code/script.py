"""A job: writes down what it was given and where it runs."""

import os
import sys
from pathlib import Path

Path(sys.argv[1]).write_text(f"{os.environ['MODE']} {sorted(path.name for path in Path().iterdir())}")
