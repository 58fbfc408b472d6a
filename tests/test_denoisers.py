"""Denoisers: the protocol, relations, and the two forms of the transformer."""

import copy

import pytest
import torch

from anyorder.denoisers.base import Denoiser, fingerprint
from anyorder.denoisers.transformer import Transformer, paper_transformer
from anyorder.errors import BadInput
from anyorder.relations import Relation, everything, same
from anyorder.tasks.sudoku import Sudoku


def structured(box: int = 2) -> Transformer:
    task = Sudoku(box)
    torch.manual_seed(0)
    heads = ["row", "column", "box", "everything"]
    model = Transformer(task.vocab_size, 0, task.length, width=16, layers=1, heads=heads, positions=False)
    model.set_relations(task.relations())
    return model.eval()


def test_sudoku_relations_are_those_of_the_rules() -> None:
    relations = Sudoku(2).relations()
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    assert relations["row"](tokens)[0, 0].nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    assert relations["column"](tokens)[0, 0].nonzero()[:, 0].tolist() == [0, 4, 8, 12]
    assert relations["box"](tokens)[0, 0].nonzero()[:, 0].tolist() == [0, 1, 4, 5]


def test_a_restricted_head_cannot_see_elsewhere() -> None:
    task = Sudoku(2)
    torch.manual_seed(0)
    model = Transformer(5, 0, 16, width=8, layers=1, heads=["row"], positions=False).eval()
    model.set_relations(task.relations())
    a = torch.randint(0, 5, (1, 16))
    b = a.clone()
    b[0, 4] = (b[0, 4] + 1) % 5  # another row
    with torch.no_grad():
        assert torch.equal(model(a).hidden[0, :4], model(b).hidden[0, :4])
        assert not torch.equal(model(a).hidden[0, 5], model(b).hidden[0, 5])


def test_the_structured_form_does_not_care_how_rows_are_permuted_within_a_band() -> None:
    model = structured().double()
    tokens = torch.randint(0, 5, (1, 16))
    order = [1, 0, 2, 3]
    moved = tokens.view(1, 4, 4)[:, order].reshape(1, 16)
    with torch.no_grad():
        a, b = model(tokens).hidden.view(4, 4, 16), model(moved).hidden.view(4, 4, 16)
    torch.testing.assert_close(a[order], b)


def test_the_mask_is_never_predicted_and_chosen_positions_give_the_same_logits() -> None:
    model = structured()
    tokens = torch.randint(0, 5, (3, 16))
    positions = tokens == 0
    with torch.no_grad():
        full, some = model(tokens), model(tokens, None, positions)
    assert (full.logits[..., 0] == -torch.inf).all()
    torch.testing.assert_close(some.logits, full.logits[positions])
    assert isinstance(model, Denoiser)


def test_loops_pass_through_the_same_weights_again() -> None:
    torch.manual_seed(0)
    once = Transformer(5, 0, 8, width=8, layers=1, heads=["everything"])
    torch.manual_seed(0)
    twice = Transformer(5, 0, 8, width=8, layers=1, heads=["everything"], loops=2)
    count = [sum(p.numel() for p in m.parameters()) for m in (once, twice)]
    assert count[0] == count[1]
    tokens = torch.randint(0, 5, (1, 8))
    assert not torch.allclose(once(tokens).hidden, twice(tokens).hidden)


@pytest.mark.parametrize("left", [True, False])
def test_padding_on_either_side_changes_nothing(left: bool) -> None:
    torch.manual_seed(0)
    model = paper_transformer(7, 0, 12).double().eval()
    tokens = torch.randint(0, 7, (2, 8))
    pad, real = torch.full((2, 4), 6), torch.ones(2, 8, dtype=torch.bool)
    padded = torch.cat([pad, tokens] if left else [tokens, pad], dim=1)
    no = torch.zeros(2, 4, dtype=torch.bool)
    mask = torch.cat([no, real] if left else [real, no], dim=1)
    with torch.no_grad():
        plain, other = model(tokens).logits, model(padded, mask).logits
    torch.testing.assert_close(other[:, 4:] if left else other[:, :8], plain)


def test_the_paper_form_has_its_size() -> None:
    model = paper_transformer(31, 2, 164)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(5.5e6, rel=0.03)


def test_weights_relations_and_config_survive_saving(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = structured()
    model.save_pretrained(tmp_path)
    again = Transformer.from_pretrained(tmp_path).eval()
    tokens = torch.randint(0, 5, (2, 16))
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, again(tokens).logits)
    assert fingerprint(model) == fingerprint(again)
    with torch.no_grad():
        again.head.bias[1] += 1e-3
    assert fingerprint(model) != fingerprint(again)


def test_a_change_of_the_weights_that_torch_does_not_count_changes_the_fingerprint() -> None:
    model = structured()
    model.register_buffer("turned", torch.randn(6, 4).t())
    model.register_buffer("flag", torch.tensor(True))
    seen = {fingerprint(model)}
    for change in (
        lambda: [weight.data.mul_(1.5) for weight in model.parameters()],  # as an average of the weights is swapped in
        lambda: model.head.bias.data.copy_(torch.full_like(model.head.bias, torch.nan)),
        lambda: model.turned.data.add_(1.0),
        lambda: model.flag.data.fill_(False),
    ):
        change()
        seen.add(fingerprint(model))
        assert fingerprint(model) == fingerprint(copy.deepcopy(model))
    assert len(seen) == 5


def test_misuse_says_what_is_wrong() -> None:
    model = structured()
    with pytest.raises(ValueError, match="built for 16 tokens; it was given 15"):
        model(torch.zeros(1, 15, dtype=torch.int64))
    with pytest.raises(BadInput, match="takes no padding"):
        model(torch.zeros(1, 16, dtype=torch.int64), torch.arange(16)[None] > 2)
    with pytest.raises(ValueError, match="no relation called diagonal"):
        Transformer(5, 0, 16, 8, 1, ["diagonal"]).set_relations(Sudoku(2).relations())
    for pad, said in ((5, "it must lie in 0..4, or be None"), (-1, "it must lie in"), (0, "which is the mask")):
        with pytest.raises(BadInput, match=f"pad_token_id is {pad}.* {said}"):
            Transformer(5, 0, 16, 8, 1, ["everything"], pad_token_id=pad)
    with pytest.raises(ValueError, match="not a multiple"):
        Transformer(5, 0, 16, 9, 1, ["everything"] * 2)
    with pytest.raises(ValueError, match="square bool matrix"):
        Relation(torch.zeros(2, 3, dtype=torch.bool))
    assert everything(2)(torch.zeros(1, 2)).all()
    assert same(torch.tensor([0, 1, 0]))(torch.zeros(1, 3)).sum() == 5
