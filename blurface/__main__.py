"""``python -m blurface`` is the ``blurface`` command (as ``torchrun -m blurface`` needs)."""

from .cli import main

main()
