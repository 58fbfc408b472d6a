"""`python -m anyorder`, for launchers of several processes."""

from anyorder.cli import main

main()
