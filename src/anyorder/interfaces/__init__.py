"""Decoding calls that users of other code know, over our loop: the same arguments, and `order=`."""
