"""What each of two processes does on machines of their own: it takes the table of the first.

`python table_ranks.py FOLDER`: each has a cache of its own in the folder, and only the first has
the table that is named. It prints the digest and what lies in its cache.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch.distributed as dist
from pipeline_table import SPEC

from dmcp_deploy.bench.tables.cache import kept_path
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.options.run import Compute
from dmcp_deploy.run.target import target_table
from dmcp_deploy.training.distributed import is_main, join_torchrun, rank, wait_for_all

TABLE, ABSENT = "table.json", "absent.json"

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    join_torchrun("cpu")
    os.environ["XDG_CACHE_HOME"] = str(folder / f"cache-{rank()}")
    given = folder / (TABLE if is_main() else ABSENT)
    digest = target_table(SPEC, given, {}, None, Compute())
    print(digest, LatencyTable.load(kept_path(digest)).network.model)
    wait_for_all()
    dist.destroy_process_group()
