"""Example parts for anyorder: one file each."""
