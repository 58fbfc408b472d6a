"""The 31-token vocabulary of Ye et al. 2024, which the Adaptive Order paper keeps for all its puzzles."""

YE_VOCABULARY = ["[PAD]", "[SEP]", "[MASK]", "[EOS]", "[UNK]", *"0123456789", *"*+-/=,", *"abcdefghij"]
PAD, SEP, MASK, EOS, UNK = range(5)
assert len(YE_VOCABULARY) == 31
