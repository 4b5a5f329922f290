"""D3, a positive control: a network that is badly balanced on purpose, where a search must win.

    python benchmarks/worth/d3_control.py        # about 70 minutes on 2 cores
    python benchmarks/worth/d3_control.py --report

Fashion-MNIST at 32 px; the last convolution is 4 times as wide as is sensible and the first
expansion is 8, so that uniform widths waste multiply-adds. 10% of them, widths of any number, 4,000
steps of training, 8 networks an arm of 8 searches. It says that the search works, not that it is
worth its time on a network that somebody has balanced.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from worth.versus import run

if __name__ == "__main__":
    run(
        *("d3_control", __doc__),
        model="unbalanced_mobilenet",
        task="fashion",
        search_steps=1000,
        train_steps=4000,
        searches=8,
        seeds=8,
    )
