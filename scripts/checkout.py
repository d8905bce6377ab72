"""Makes ``scripts`` and ``tasks`` importable for a command, whatever folder it is typed in.

Python looks beside a script, in ``scripts/`` itself; what it is made of begins one level up.
"""

import site
from pathlib import Path

site.addsitedir(str(Path(__file__).resolve().parents[1]))
