"""D4 for a CPU: Duo-100 at 48 px, one budget, few seeds; what it could show stands beside it.

    python benchmarks/worth/d4_small.py        # about 100 minutes on 2 cores
    python benchmarks/worth/d4_small.py --report

The task of d4_duo100.py on smaller canvases, and a MobileNetV2-like network whose plans have 1.5M
multiply-adds: 10% of the full network's, widths of any number. Networks start from an
initialisation of their own; 4,000 steps of 128, 20,000 test composites, 3 searches, 6 networks an
arm.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from worth.versus import run

if __name__ == "__main__":
    run(*("d4_small", __doc__), task="duo48", search_steps=2000, train_steps=4000)
