"""Denoisers: the protocol, the small transformer. A new one is one file here, or any module wrapped."""
