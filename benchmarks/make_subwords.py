"""How `anyorder/tasks/subwords.json` was made: byte-pair encoding of definitions of WordNet, 2,044 pieces and 4 special tokens.

anyorder fetch wordnet
python benchmarks/make_subwords.py OUT.json
"""

import json
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from anyorder.files import find_file

SPECIAL = ["[PAD]", "[MASK]", "[CLS]", "[SEP]"]


def main() -> None:
    """Train the encoding and write its pieces, special tokens first."""
    lines = find_file("wordnet/train.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?\d+| ?[^\sA-Za-z\d]+|\s+"), "isolated")
    characters = [chr(code) for code in range(32, 127) if chr(code) != "_"]
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=2044, initial_alphabet=characters, show_progress=False))
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda piece: piece[1])
    Path(sys.argv[1]).write_text(json.dumps([*SPECIAL, *(word for word, _ in pieces)], indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
