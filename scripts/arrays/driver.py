"""Run SCALE-Sim on each topology of a folder: driver.py FOLDER, by the Python that has scalesim.

A topology has one product, since a run keeps the traces of all its products in memory. SCALE-Sim's
own command (``python -m scalesim.scale``) would also write each trace to a file.
"""

import sys
from pathlib import Path

from scalesim.scale_sim import scalesim

for topology in sorted(Path(sys.argv[1]).glob("*.csv")):
    scalesim(
        save_disk_space=True,
        verbose=False,
        config=str(topology.with_name("array.cfg")),
        topology=str(topology),
        layout=str(topology.with_name("layout.txt")),
        input_type_gemm=True,
    ).run_scale(top_path=str(topology.with_suffix("")))
