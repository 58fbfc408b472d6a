"""Decoding: count rules, token rules, remaskers, and the loop that joins them with an order."""
