"""``golden`` and ``libraries`` lie one folder above, ``layer_zoo`` beside."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
