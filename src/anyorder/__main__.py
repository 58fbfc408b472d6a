"""`python -m anyorder`, for launchers of several processes."""

from anyorder.cli import main

if __name__ == "__main__":
    main()
