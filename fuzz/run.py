"""Fuzz one target with atheris (libFuzzer).

    python fuzz/run.py pairs|kernels|images [CORPUS_FOLDER] [libFuzzer options]

for example ``python fuzz/run.py kernels /tmp/corpus -max_total_time=240 -rss_limit_mb=3000``. Inputs that
break a promise are left as ``crash-*`` in the working folder; mend the code, and add the input to
``tests/reliability/corpus/TARGET``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch  # noqa: F401 (before instrumentation starts: it is large, and not under test)

with atheris.instrument_imports(include=["blurface", "protocols", "PIL", "h5py", "scipy.io", "numpy.lib"]):
    from targets import TARGETS


def main() -> None:
    """Read the target's name and leave the rest to libFuzzer."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python fuzz/run.py {'|'.join(TARGETS)} [CORPUS_FOLDER] [libFuzzer options]")
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
