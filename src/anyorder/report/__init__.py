"""Pictures of what an evaluation found: plots, and the page that plays decodings back."""
