"""Loader workers that cannot hand over what they have read."""

import subprocess
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NO_MORE_FILES = """
    import os, resource
    import torch
    from meap.data.loader import RowLoader, start_worker

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, row):
            if row == 8:
                opened = max(map(int, os.listdir("/proc/self/fd")))
                resource.setrlimit(resource.RLIMIT_NOFILE, (opened, opened))
            return torch.full((1000,), row)

    for batch in RowLoader(Rows(), batch_size=8, num_workers=1, worker_init_fn=start_worker):
        print(int(batch[0, 0]), flush=True)
"""


def test_a_worker_that_may_open_no_more_files_says_so_instead_of_dropping_a_batch(warm_python, quiet_environment):
    ran = subprocess.run(
        [warm_python, "-c", textwrap.dedent(NO_MORE_FILES)],
        cwd=ROOT, env=quiet_environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stdout.split() in ([], ["0"]), "the first batch may be on its way"
    assert ran.stderr.count("Traceback (most recent call last)") == 2, "of the loader, and in it that of the worker"
    assert "OSError: Caught OSError in the loader worker with pid" in ran.stderr
    assert ran.stderr.strip().endswith("Too many open files")
