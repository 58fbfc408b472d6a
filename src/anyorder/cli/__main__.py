"""`python -m anyorder.cli`, for launchers of several processes."""

from anyorder.cli import main

main()
