"""Before torch is imported: one thread a test process, for `make test` runs one process per core."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
