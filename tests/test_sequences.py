"""Sequences: alphabets, files, framing, in-filling, validity, and measures of a set of samples."""

import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from anyorder.cli import app
from anyorder.decoding.loop import decode
from anyorder.decoding.tokens import Sample
from anyorder.errors import BadInput
from anyorder.evaluation.judges import PseudoLikelihood
from anyorder.session import open_session
from anyorder.tasks import make_task
from anyorder.tasks.alphabets import (
    ALPHABETS,
    AMINO_ACIDS,
    ANTIBERTY,
    CHARACTERS,
    ESM,
    SMILES,
    SUBWORDS,
    Symbols,
    alphabet_of,
)
from anyorder.tasks.sequence_files import read_records, read_sequences
from anyorder.tasks.sequence_measures import first_occurrence, identities, mean_identity, over_pairs, overlaps, token_entropy
from anyorder.tasks.sequences import Sequences

PROTEIN = make_task("protein")
assert isinstance(PROTEIN, Sequences)


@given(st.text(AMINO_ACIDS + "_", max_size=40))
def test_proteins_come_back_as_they_were(text: str) -> None:
    for alphabet in (ANTIBERTY, ESM):
        tokens = alphabet.encode(text)
        assert len(tokens) == len(text)
        assert alphabet.decode(tokens) == text


@given(st.lists(st.sampled_from(["c1ccccc1", "Cl", "Br", "[nH]", "C(=O)", "_", "#N"]), max_size=8))
def test_smiles_are_cut_into_atoms_and_come_back(parts: list[str]) -> None:
    assert SMILES.decode(SMILES.encode("".join(parts))) == "".join(parts)
    assert len(SMILES.encode("ClBr[nH]")) == 3


@settings(deadline=None)  # the pattern is compiled at first use
@given(st.text("abcdefghijklmnopqrstuvwxyz ,.'-XYZ0123456789", max_size=60))
def test_text_in_pieces_of_words_comes_back_and_is_shorter(text: str) -> None:
    tokens = SUBWORDS.encode(text)
    assert SUBWORDS.decode(tokens) == text
    assert set(tokens) <= SUBWORDS.symbols
    assert len(SUBWORDS.encode("a small piece of the whole")) <= 7


def test_the_space_before_an_unknown_piece_belongs_to_it() -> None:
    mask = SUBWORDS.mask_token_id
    assert SUBWORDS.encode("a _{2} of _") == [*SUBWORDS.encode("a"), mask, mask, *SUBWORDS.encode(" of"), mask]
    with pytest.raises(BadInput, match="'\xe9' at position 2 is not one of the symbols"):
        SUBWORDS.encode("a\xe9")


def test_unknown_symbols_are_written_as_underscores_numbers_or_the_mask() -> None:
    mask = ESM.mask_token_id
    assert ESM.encode("_A_{3}<mask>") == [mask, *ESM.encode("A"), mask, mask, mask, mask]
    assert CHARACTERS.encode("a_b")[1] == CHARACTERS.mask_token_id


@pytest.mark.parametrize("text", ["A1A", "A A", "AJA", "A<cls>A", "A*A", "1"])
def test_what_is_no_amino_acid_is_refused_and_its_place_named(text: str) -> None:
    with pytest.raises(BadInput, match=r"at position [12] is not one of the amino acids"):
        ESM.encode(text)


def test_proteins_are_read_in_any_case_without_gaps_and_the_star_at_the_end() -> None:
    for alphabet in (ESM, ANTIBERTY):
        assert alphabet.encode("ac-D.e_*") == alphabet.encode("ACDE_")
        assert alphabet.decode(alphabet.encode("ac-D.e_*")) == "ACDE_"


def test_other_residues_are_kept_as_context_where_the_model_knows_them(tmp_path: Path) -> None:
    assert ESM.decode(ESM.encode("AXBUZO")) == "AXBUZO"
    assert not ESM.symbols & set(ESM.encode("XBUZO")), "they are never produced"
    with pytest.raises(BadInput, match="'X' at position 2 is not one of the amino acids of this model"):
        ANTIBERTY.encode("AX")
    problem = PROTEIN.encode(["AXXC"])
    assert problem.x0 is not None
    assert problem.maskable.tolist() == [[False, True, False, False, True, False]]
    assert PROTEIN.decode(problem.x0) == ["AXXC"] and PROTEIN.format(problem.tokens[0]) == "_XX_"
    assert PROTEIN.check(problem, problem.x0).instance_correct.tolist() == [True]
    with pytest.raises(BadInput, match="'XX' holds no symbol that the model may produce"):
        PROTEIN.encode(["XX"])
    protbert = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *AMINO_ACIDS, "X"]
    (tmp_path / "vocab.txt").write_text("\n".join(protbert))
    alphabet = alphabet_of(str(tmp_path))
    assert alphabet.encode("ax") == [5, 25] and 25 not in alphabet.symbols


def test_the_alphabets_are_those_of_the_models() -> None:
    assert (ESM.vocab_size, ESM.mask_token_id, ESM.pad_token_id, ESM.start, ESM.end) == (33, 32, 1, (0,), (2,))
    assert (ANTIBERTY.vocab_size, ANTIBERTY.mask_token_id, ANTIBERTY.encode("ACY")) == (25, 4, [5, 6, 24])
    assert len(ESM.symbols) == len(ANTIBERTY.symbols) == 20


def test_a_vocabulary_file_is_an_alphabet(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "C", "Cl", ">>"]))
    alphabet = alphabet_of(str(tmp_path))
    assert isinstance(alphabet, Symbols)
    assert alphabet.encode("CCl>>C_") == [6, 7, 8, 6, 5]
    assert alphabet.symbols == {6, 7, 8}
    (tmp_path / "vocab.txt").write_text("C\n[PAD]\n")
    with pytest.raises(BadInput, match=r"\[MASK\]"):
        alphabet_of(str(tmp_path))
    with pytest.raises(BadInput, match="neither an alphabet"):
        alphabet_of(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"\A.* nor a model with a tokenizer: [^\n]+\Z"):  # one line
        alphabet_of(str(tmp_path / "empty"))


def test_sequences_are_framed_padded_and_all_unknown() -> None:
    found = PROTEIN.encode(["AC", "ACDE"])
    assert found.tokens.tolist() == [[0, 32, 32, 2, 1, 1], [0, 32, 32, 32, 32, 2]]
    assert found.x0 is not None
    assert PROTEIN.decode(found.x0) == ["AC", "ACDE"]
    assert found.maskable.sum(dim=1).tolist() == [2, 4]


def test_a_share_is_hidden_alike_whatever_stands_beside_it() -> None:
    half = Sequences("esm", hide=0.5)
    many, few = half.encode(["ACDEFGHI", "KLMN"]), half.encode(["ACDEFGHI"])
    assert many.maskable.sum(dim=1).tolist() == [4, 2]
    assert torch.equal(many.maskable[:1, :10], few.maskable)


def test_marked_symbols_alone_are_generated_and_given_ones_must_stay() -> None:
    problem = PROTEIN.parse("AC_{2}F")
    assert problem.x0 is None
    filled = problem.tokens.clone()
    filled[problem.maskable] = torch.tensor(ESM.encode("DE"))
    assert PROTEIN.format(filled[0]) == "ACDEF"
    changed, unfinished, special = filled.clone(), filled.clone(), filled.clone()
    changed[0, 1] = ESM.encode("W")[0]
    unfinished[0, 3] = ESM.mask_token_id
    special[0, 3] = ESM.end[0]
    for tokens, right in ((filled, True), (changed, False), (unfinished, False), (special, False)):
        assert bool(PROTEIN.check(problem, tokens).instance_correct[0]) is right
    assert torch.isnan(PROTEIN.check(problem, filled).cell_accuracy).all()


def test_recovery_is_counted_where_the_truth_is_known() -> None:
    problem = PROTEIN.encode(["ACDE"])
    assert problem.x0 is not None
    tokens = problem.x0.clone()
    tokens[0, 1] = ESM.encode("W")[0]
    assert PROTEIN.check(problem, tokens).cell_accuracy.tolist() == [0.75]


def test_a_free_length_is_generated_with_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task("antibody", length=6, free_length=True)
    assert isinstance(task, Sequences)
    problem = task.generate(2, seed=0)
    assert problem.tokens.tolist() == [[2, *[4] * 7]] * 2
    tokens = torch.tensor([[2, *ANTIBERTY.encode("ACD"), 3, *ANTIBERTY.encode("EF"), 3]])
    assert task.decode(tokens) == ["ACD"], "what follows the first end is cut off"
    endless = Symbols(("[PAD]", "[MASK]", "A"), "[MASK]", "[PAD]")
    monkeypatch.setitem(ALPHABETS, "endless", endless)
    with pytest.raises(BadInput, match="no end symbol"):
        Sequences("endless", free_length=True)


def test_lengths_are_drawn_from_the_range_asked_for() -> None:
    found = PROTEIN.generate(200, seed=3, length=(5, 9))
    assert set(found.maskable.sum(dim=1).tolist()) == {5, 6, 7, 8, 9}
    assert torch.equal(PROTEIN.generate(2, seed=3, length=(5, 9)).maskable.sum(dim=1), found.maskable.sum(dim=1)[:2])
    assert torch.equal(PROTEIN.generate(200, seed=3, length=[5, 9]).tokens, found.tokens)  # as a recipe gives it
    assert PROTEIN.generate(1, seed=0).maskable.sum() == 1022
    with pytest.raises(BadInput, match=r"1\.\.1022"):
        PROTEIN.generate(1, seed=0, length=2000)
    for no_range in ("5-9", False):
        with pytest.raises(BadInput, match=r"length is .*; it must be a whole number or a list"):
            PROTEIN.generate(1, seed=0, length=no_range)  # type: ignore[arg-type]
    for wrong in ((5,), (5.0, 9.0)):
        with pytest.raises(BadInput, match=r"length .* must be a number, or a range"):
            PROTEIN.generate(1, seed=0, length=wrong)  # type: ignore[arg-type]


FILES = {
    "a.fasta": ">one first\nAC\nDE\n\n>two\nFG\n",
    "a.csv": "id,sequence\n1,ACDE\n2,FG\n",
    "a.jsonl": '{"sequence": "ACDE"}\n"FG"\n',
    "a.txt": "ACDE\n\nFG\n",
    "a.smi": "ACDE name\nFG\n",
}


FILES |= {
    "b.csv": "id,Sequence\n1,ACDE\n2,FG\n",
    "c.csv": "text,SMILES\n1,ACDE\n2,FG\n",
    "b.jsonl": '{"Text": "ACDE"}\n{"SEQUENCE": "FG"}\n',
    "c.jsonl": '{"text": "A", "SMILES": "ACDE"}\n"FG"\n',
    "b.fasta": f">{' ' * 70}one\nACDE\n>\nFG\n",
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_sequences(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    assert [text for _, text in read_sequences(tmp_path / name)] == ["ACDE", "FG"]
    assert PROTEIN.load(tmp_path / name, 1).maskable.sum().item() == 4
    packed = tmp_path / f"{name.upper()}.gz"
    packed.write_bytes(gzip.compress(FILES[name].encode()))
    assert list(read_records(packed)) == list(read_records(tmp_path / name))


def test_records_have_the_name_that_the_file_gives_them(tmp_path: Path) -> None:
    long = "x" * 100
    (tmp_path / "a.fasta").write_text(f">one first\nAC\n>{' ' * 60}two\nDE\n>{long} y\nFG\n")
    records = list(read_records(tmp_path / "a.fasta"))
    assert [(r.name, r.line, r.text) for r in records] == [("one", 1, "AC"), ("two", 3, "DE"), (long, 5, "FG")]
    assert [r.place for r in records] == ["one (line 1)", "two (line 3)", f"{long[:57]}... (line 5)"]


@pytest.mark.parametrize(
    ("name", "text"), [("a.csv", "id,Heavy,text\n1,AC,x\n"), ("a.jsonl", '{"text": "x", "Heavy": "AC"}\n')]
)
def test_another_column_can_be_named(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert [(r.text, r.column) for r in read_records(tmp_path / name, "heavy")] == [("AC", "Heavy")]
    with pytest.raises(BadInput, match=r"has no column light; it has .*Heavy"):
        list(read_records(tmp_path / name, "light"))
    (tmp_path / "a.smi").write_text("CC\n")
    with pytest.raises(BadInput, match="has no columns"):
        list(read_records(tmp_path / "a.smi", "heavy"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.fasta", ">one\nAC1\n", r"one \(line 1\): '1' at position 3"),
        ("a.fasta", "ACD\n", r"a\.fasta, line 1: a FASTA file starts with a line '>name'"),
        ("a.fasta", ">one\n>two\nAC\n", r"one \(line 1\): it is empty"),
        ("a.txt", "", "holds no sequences"),
        ("a.txt", "A" * 1100, "line 1: it has 1100 symbols; this task takes 1022"),
        ("a.jsonl", '{"id": 3}\n', "line 1 has no column sequence, smiles or text .*; it has id"),
        ("a.jsonl", "3\n", "line 1 must be a string or an object"),
        ("a.jsonl", '{"text": 3}\n', "line 1: text is not a string"),
        ("a.csv.gz", "sequence\nAC\n", "is not a complete gzip file"),
        ("a.jsonl", "{\n", "line 1 is not JSON"),
        ("a.csv", "# one\n\nsequence\nAC\nA1\n", r"line 5: '1' at position 2"),
        ("a.csv", "id,name\n1,2\n", "no column sequence, smiles or text .*; it has id, name"),
        ("a.pdf", "AC", "not .pdf"),
    ],
)
def test_bad_files_get_one_clear_error(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=message):
        PROTEIN.load(tmp_path / name)


def test_overlaps_count_symbols_and_pairs_wherever_they_stand() -> None:
    texts = ["abab", "xabab", "bbaa", "a", "", "xy"]
    found = overlaps([np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) for text in texts])
    assert np.array_equal(found, found.T)
    assert found.diagonal().tolist() == [1, 1, 1, 1, 0, 1]
    assert found[0, 1] == pytest.approx((2 * 4 / 9 + 2 * 3 / 7) / 2)  # all of abab but nothing of x
    assert found[0, 2] == pytest.approx((1 + 2 * 1 / 6) / 2)  # the same symbols; of ab, ba, ab and bb, ba, aa one pair
    assert found[0, 3] == pytest.approx(2 * 1 / 5)  # a has no pairs
    assert not found[4].any() and found[0, 5] == 0 and found[1, 5] == pytest.approx((2 * 1 / 7 + 0) / 2)
    assert overlaps([]).shape == (0, 0)


def test_measures_by_hand() -> None:
    assert token_entropy(np.array([1, 1, 2, 2])) == 1.0
    assert token_entropy(np.array([7, 7, 7])) == 0.0
    rows = [np.array([1, 2, 3, 4]), np.array([1, 2, 9, 9]), np.array([1, 2])]
    assert identities(rows).tolist() == [[1, 0.5, 1], [0.5, 1, 1], [1, 1, 1]]
    assert mean_identity(rows).tolist() == [0.75, 0.75, 1.0]
    assert first_occurrence(["a", "b", "a"]).tolist() == [1, 1, 0]
    assert over_pairs(np.array([1.0, 2.0, 3.0])).tolist() == [0, 2, 4]


def test_means_over_pairs_need_no_table_of_all_pairs() -> None:
    rows = list(np.random.default_rng(0).integers(0, 9, (1200, 12)))
    tracemalloc.start()
    mean = mean_identity(rows)
    assert tracemalloc.get_traced_memory()[1] < 2**21, "of 1,200 sequences, whose table takes 11 MiB"
    tracemalloc.stop()
    assert mean == pytest.approx((identities(rows).sum(axis=1) - 1) / 1199)


def test_intervals_of_pair_measures_cover_as_often_as_they_say() -> None:
    """Diversity of random sequences: the spread of its mean over many sets is what one set's interval claims."""
    rng = np.random.default_rng(0)
    means, halves = [], []
    for _ in range(300):
        rate = rng.random(30)  # sequences differ in how many of their symbols are the common one
        rows = [np.where(rng.random(20) < r, 0, rng.integers(1, 9, 20)) for r in rate]
        values = over_pairs(1 - mean_identity(rows))
        means.append(values.mean())
        halves.append(values.std(ddof=1) / np.sqrt(len(values)))
    assert 0.8 < np.mean(halves) / np.std(means) < 1.25


def test_molecules_are_valid_when_rdkit_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rdkit")
    monkeypatch.setenv("ANYORDER_CACHE", str(tmp_path))  # scaffolds are kept there
    (tmp_path / "known.smi").write_text("CCO\nc1ccccc1C\n")
    task = make_task("molecules", known=str(tmp_path / "known.smi"))
    assert isinstance(task, Sequences)
    assert task.valid(["CCO", "C1CC", "c1ccccc1", "CC(", "_", ""]).tolist() == [True, False, True, False, False, False]
    texts = ["OCC", "CCO", "C1CC", "c1ccccc1CC", "N"]
    empty = task.generate(len(texts), seed=0, length=12)
    framed = task.encode(texts).x0
    assert framed is not None
    found = task.measure(task.encode(texts), framed)
    assert found["unique"].tolist()[:2] == [1, 0], "two spellings of one molecule"
    assert np.isnan(found["unique"][2])
    assert found["novel"].tolist()[0] == 0 and found["novel"][3] == 1
    assert np.isnan(found["novel"][1]) and np.isnan(found["novel scaffold"][1]), "novelty is of the set, as in MOSES"
    assert found["novel scaffold"][3] == 0, "a benzene ring is known"
    assert len(empty) == 5


TRASTUZUMAB = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS"
)


def test_antibodies_are_valid_when_they_are_one_domain() -> None:
    pytest.importorskip("immunum")
    pytest.importorskip("anarcism")
    from anyorder.tasks.antibody import cdr_masked

    task = make_task("antibody", length=300)
    assert isinstance(task, Sequences)
    texts = [TRASTUZUMAB, "".join(sorted(TRASTUZUMAB)), TRASTUZUMAB + TRASTUZUMAB, TRASTUZUMAB + "A" * 30]
    assert task.valid(texts).tolist() == [True, False, False, False]
    problems = task.encode(texts)
    assert problems.x0 is not None
    found = task.measure(problems, problems.x0)
    assert found["chimera"].tolist() == [0, 0, 1, 1]
    assert found["heavy chain"][0] == 1 and np.isnan(found["heavy chain"][1])
    assert found["bit score"][0] > 150 > found["bit score"][1]
    assert found["near-duplicate"].tolist() == [1, 0, 1, 1]
    assert cdr_masked(TRASTUZUMAB) == TRASTUZUMAB.replace("SRWGGDGFYAMDY", "_{13}")
    with pytest.raises(BadInput, match="cdr3"):
        cdr_masked(TRASTUZUMAB, "cdr9")
    with pytest.raises(BadInput, match="cannot be numbered"):
        cdr_masked("A" * 100)


def test_antibodies_are_compared_at_imgt_positions() -> None:
    """A changed residue and a missing first one are one difference each, of 120 positions; another start is no difference by
    position in the text, where nearly all residues would differ."""
    pytest.importorskip("immunum")
    from anyorder.tasks.antibody import aligned_identities
    from anyorder.tasks.sequence_measures import identities

    task = make_task("antibody")
    other = TRASTUZUMAB.replace("DTYIHW", "DTYMHW")
    alike = aligned_identities([TRASTUZUMAB, other, TRASTUZUMAB[1:], "A" * 100])
    assert len(TRASTUZUMAB) == 120
    expected = [[1, 119 / 120, 119 / 120, 0], [119 / 120, 1, 118 / 120, 0], [119 / 120, 118 / 120, 1, 0], [0, 0, 0, 1]]
    assert alike == pytest.approx(np.array(expected))
    assert aligned_identities([]).shape == (0, 0)
    by_place = identities([np.frombuffer(text.encode(), dtype=np.uint8) for text in (TRASTUZUMAB, TRASTUZUMAB[1:])])
    assert by_place[0, 1] < 0.2
    problems = task.encode([TRASTUZUMAB, other, TRASTUZUMAB[1:], "A" * 100])
    assert task.differences(problems, problems.x0) == pytest.approx(1 - np.array(expected))
    found = task.measure(problems, problems.x0)["IMGT diversity"]
    assert np.isnan(found[3]) and np.nanmean(found) == pytest.approx(np.mean([1, 1, 2]) / 120)


def test_a_tokenizer_is_an_alphabet(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {w: n for n, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat"])}
    raw = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 12, "model_type": "bert"}))
    alphabet = alphabet_of(str(tmp_path))
    assert (alphabet.vocab_size, alphabet.start, alphabet.end, alphabet.pad_token_id) == (12, (2,), (3,), 0)
    assert alphabet.encode("the [MASK] sat _{2}") == [5, 4, 7, 4, 4]
    assert alphabet.decode([2, 5, 6, 4, 4, 7, 3, 0]) == "the cat__sat"
    with pytest.raises(BadInput, match="does not know"):
        alphabet.encode("the dog")


def test_the_shipped_model_of_molecules_designs_valid_ones_in_its_learned_order() -> None:
    pytest.importorskip("rdkit")
    session = open_session(task="molecules", limit=24, generate=["length=30-40"])
    assert (session.meta["denoiser"], session.best_sampler()) == ("moses", "policy")
    shares = {}
    for order in ("policy", "random"):
        sampler = session.bind(order, steps=40, token=Sample(0.4))
        found = decode(session.denoiser, session.instances.tokens, sampler, seeds=1)
        shares[order] = float(session.task.check(session.instances, found.tokens).instance_correct.float().mean())
    assert shares["policy"] > 0.75, "93 % of 10,000 in docs/sequences.md"
    assert shares["policy"] > shares["random"]


def test_the_shipped_model_of_text_knows_definitions_from_shuffled_words() -> None:
    session = open_session(task="text", problem="a person who plays a musical instrument")
    assert (session.meta["denoiser"], session.best_sampler()) == ("wordnet", "policy")
    texts = [
        "a person who plays a musical instrument",
        "the act of moving something to a new place",
        "a small box used to hold tools",
    ]
    shuffled = [
        "plays a who instrument person musical a",
        "something of act new a moving to place the",
        "hold to a used tools box small",
    ]
    likely = {}
    for name, found in (("texts", texts), ("shuffled", shuffled)):
        problems = session.task.encode(found)  # type: ignore[attr-defined]
        assert problems.x0 is not None
        likely[name] = PseudoLikelihood(session.denoiser, folds=5)(session.task, problems, problems.x0)
    assert (likely["texts"] > likely["shuffled"] + 1).all(), "nats per piece"
    sampler = session.bind("policy", steps=20)
    filled = decode(session.denoiser, session.task.parse("a person who _{1} music").tokens, sampler).tokens
    assert session.task.decode(filled)[0].startswith("a person who ")  # type: ignore[attr-defined]


def test_at_free_length_what_stands_behind_the_end_counts_for_nothing() -> None:
    task = make_task("protein", alphabet="esm", length=9, free_length=True)
    assert isinstance(task, Sequences)
    instances = task.generate(3, seed=0, length=9)
    start, end = list(task.symbols.start), list(task.symbols.end)
    rows = [[*task.symbols.encode(head), *end, *task.symbols.encode(tail)] for head, tail in
            [("ACD", "EFGHIK"), ("ACD", "WYVTSR"), ("ACDEFGHIK", "")]]  # fmt: skip
    tokens = torch.tensor([[*start, *row] for row in rows])
    assert tokens.shape == instances.tokens.shape
    found = task.measure(instances, tokens)
    assert found["unique"].tolist() == [1, 0, 1]
    assert found["diversity"].tolist() == [0, 0, 0], "the first three places are the same in all"
    assert found["token entropy"][:2].tolist() == pytest.approx([np.log2(3)] * 2)
    assert task.generated(instances, tokens).sum(dim=1).tolist() == [3, 3, 9]


def test_only_valid_samples_are_no_failure_as_long_as_there_are_some() -> None:
    pytest.importorskip("rdkit")
    command = ["sample", "20", "--task", "molecules", "--order", "random", "--temperature", "0.6", "--number", "12"]
    every = CliRunner().invoke(app, command)
    some = CliRunner().invoke(app, [*command, "--only-valid"])
    assert (every.exit_code, some.exit_code) == (1, 0), "some of twelve are valid, some are not"
    assert 0 < len(some.stdout.splitlines()) < len(every.stdout.splitlines()) == 12
