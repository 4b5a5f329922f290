"""D2: DMCP's plans against uniform ones where in-place distillation takes most noise away.

    python benchmarks/worth/d2_training.py        # about 1 hour on 2 cores
    python benchmarks/worth/d2_training.py --report

Fashion-MNIST at 32 px, a MobileNetV2-like network of 4.8M multiply-adds, 10% of them, widths of any
number. dmcp*, uniform* and budget-only* of one number start from the same random full network and
are distilled on its weights, so that none has had more steps than the others. 6 searches and 6
numbers.
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
        *("d2_training", __doc__),
        distill=True,
        task="fashion",
        search_steps=1000,
        train_steps=2000,
        searches=6,
    )
