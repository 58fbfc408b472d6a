"""The results of an evaluation as pictures: plots, and the page that plays decodings back."""
