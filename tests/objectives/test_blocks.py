"""Oracle: the plain form, with all logits kept, in float64 and float32."""

import pytest
import torch
from objectives.test_golden import losses
from objectives.test_ranks import CONFIGS
from oracles.toy import relative_error
from torch.nn.functional import normalize, softplus

from neuclip.objectives import blocks
from neuclip.objectives.registry import build

ROWS, COLUMNS, WIDTH, SIDES = 37, 53, 8, 2
SMALL_BLOCK = 4 * SIDES * COLUMNS
SIGLIP = {"siglip": {"name": "siglip"}, "siglip, gather": {"name": "siglip", "exchange": "gather"}}
WHOLE_BATCH = {name: config for name, config in CONFIGS.items() if name != "neuclip-index"} | SIGLIP


@pytest.fixture
def in_blocks(monkeypatch):
    """Everything is too large to keep, and a block has a few rows."""
    monkeypatch.setattr(blocks, "MOST_AT_ONCE", 1)
    monkeypatch.setitem(blocks._BLOCK, "cpu", SMALL_BLOCK)


def some_table(dtype=torch.float64, *, seed=0, has_offsets=True, twins=True):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(SIDES, ROWS, WIDTH, generator=draw, dtype=dtype).requires_grad_()
    columns = torch.randn(SIDES, COLUMNS, WIDTH, generator=draw, dtype=dtype).requires_grad_()
    column_ids = torch.arange(COLUMNS)
    if twins:
        column_ids[20:26] = 3
    offsets = torch.randn(SIDES, COLUMNS, generator=draw, dtype=dtype) if has_offsets else None
    return blocks.Table(rows, columns, torch.arange(ROWS), column_ids, offsets)


def plain_logits(table):
    logits = table.rows_SRD @ table.columns_SCD.transpose(1, 2)
    if table.offsets_SC is not None:
        logits = logits + table.offsets_SC[:, None]
    return logits, table.row_ids_R[:, None] == table.column_ids_C


def gradients(value, table):
    weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).view_as(value)
    return torch.autograd.grad((value * weights).sum(), [table.rows_SRD, table.columns_SCD])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("has_offsets", [False, True])
def test_log_sums_and_their_gradient(in_blocks, dtype, tolerance, has_offsets):
    table = some_table(dtype, has_offsets=has_offsets)
    logits, is_own = plain_logits(table)
    expected = torch.logsumexp(logits.masked_fill(is_own, -torch.inf), dim=2)
    found = blocks.log_sums(table)
    assert relative_error(found, expected) < tolerance
    assert (
        relative_error(list(gradients(found, table)), list(gradients(expected, table))) < tolerance
    )
    means = (logits.masked_fill(is_own, -torch.inf).softmax(2) * logits).sum(2)
    assert (
        relative_error(blocks.mean_logits(table, found.detach()), means.detach()) < 10 * tolerance
    )


@pytest.mark.parametrize("threshold", [20.0, 2.0])
def test_softplus_sum_and_its_gradient(in_blocks, threshold):
    table = some_table(has_offsets=False)
    bias = torch.tensor(-1.5, dtype=torch.float64, requires_grad=True)
    logits, is_own = plain_logits(table)
    expected = softplus(logits + bias).masked_fill(is_own, 0).sum()
    found = blocks.softplus_sum(table, bias, threshold=threshold)
    assert relative_error(found, expected) < (1e-9 if threshold == 20 else 0.05)
    leaves = [bias, table.rows_SRD, table.columns_SCD]
    assert (
        relative_error(
            list(torch.autograd.grad(found, leaves)), list(torch.autograd.grad(expected, leaves))
        )
        < 1e-12
    )


def test_a_row_without_columns_is_nothing_and_has_no_gradient(in_blocks):
    table = some_table()._replace(
        row_ids_R=torch.full((ROWS,), 7), column_ids_C=torch.full((COLUMNS,), 7)
    )
    found = blocks.log_sums(table)
    assert torch.isneginf(found).all()
    assert all((part == 0).all() for part in gradients(found.clamp(min=-1e4), table))
    assert (blocks.mean_logits(table, found.detach()) == 0).all()


def test_at_a_low_temperature_nothing_overflows(in_blocks):
    table = some_table(torch.float32, has_offsets=False)
    table = table._replace(rows_SRD=(100 * table.rows_SRD).detach().requires_grad_())
    found = blocks.log_sums(table)
    assert torch.isfinite(found).all()
    assert all(torch.isfinite(part).all() for part in gradients(found, table))


def test_gradients_pass_torchs_own_check(in_blocks):
    table = some_table()
    small = [part[:, :5].detach().requires_grad_() for part in table[:2]]
    ids = torch.arange(5)
    assert torch.autograd.gradcheck(
        lambda rows, columns: blocks.log_sums(blocks.Table(rows, columns, ids, ids)), small
    )


def test_others_are_counted_without_a_matrix():
    draw = torch.Generator().manual_seed(1)
    rows = torch.randint(0, 9, (40,), generator=draw)
    columns = torch.randint(0, 9, (70,), generator=draw)
    expected = (rows[:, None] != columns).sum(dim=1)
    assert torch.equal(blocks.count_others(rows, columns), expected)


@pytest.mark.parametrize("name", list(WHOLE_BATCH))
def test_training_in_blocks_is_training_with_all_logits(name, monkeypatch):
    """Twenty steps of every objective and estimator, in float64 as far as state allows."""
    expected = losses(WHOLE_BATCH[name], torch.float64)
    monkeypatch.setattr(blocks, "MOST_AT_ONCE", 1)
    monkeypatch.setitem(blocks._BLOCK, "cpu", 100)
    assert losses(WHOLE_BATCH[name], torch.float64) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", list(WHOLE_BATCH))
def test_gradients_in_blocks_are_those_of_the_plain_form(name, monkeypatch):
    """A batch with a sample twice; the second step, so that there is state to predict from."""

    def found():
        objective = build(WHOLE_BATCH[name], feature_dim=WIDTH, num_samples=64, seed=2)
        objective = objective.double()
        draw = torch.Generator().manual_seed(4)
        for step in range(2):
            sides = torch.randn(2, 16, WIDTH, generator=draw, dtype=torch.float64)
            leaves = [side.requires_grad_() for side in normalize(sides, dim=2)]
            ids = torch.arange(16) + 16 * step
            ids[5] = ids[9]
            result = objective(*leaves, ids)
            learned = [p for p in objective.parameters() if p.requires_grad]
            grads = torch.autograd.grad(result.loss, leaves + learned, allow_unused=True)
            objective.advance(step + 1)
        return result.loss.detach(), [g for g in grads if g is not None], result.pair_losses

    expected = found()
    monkeypatch.setattr(blocks, "MOST_AT_ONCE", 1)
    monkeypatch.setitem(blocks._BLOCK, "cpu", 100)
    for part, plain in zip(found(), expected, strict=True):
        if plain is not None:
            assert relative_error(part, plain) < 1e-6
