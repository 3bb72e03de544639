"""Sums over all pairs of rows and columns in blocks of rows, which the gradient computes again: no matrix of all pairs.

Legend: S side, R rows, X rows of a block, C columns, D width.

Rows are scaled before (by 1 / temperature), so that a logit is their product with a column plus the column's offset.
Pairs whose ids are equal are left out. Memory grows with R + C, as features do; time is one product more than with all
logits kept.

Source: Inf-CL, arXiv 2410.17243, for the idea; against the plain form in tests/objectives/test_blocks.py.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

MOST_AT_ONCE = 1 << 22
"""Logits that are kept for the gradient: 16 MiB in float32. More are computed in blocks, which is also faster."""

_BLOCK = {"cpu": 1 << 22}
_BLOCK_ELSEWHERE = 1 << 26
"""Logits of a block, few enough for a processor's cache; on a device so many that launches do not count. Some three
times as many numbers live at a time."""


class Table(NamedTuple):
    """Rows, columns, and which belong together.

    Args:
        offsets_SC: added to all logits of a column, constant; none is 0.
    """

    rows_SRD: Float[Tensor, "S R D"]
    columns_SCD: Float[Tensor, "S C D"]
    row_ids_R: Int[Tensor, " R"]
    column_ids_C: Int[Tensor, " C"]
    offsets_SC: Float[Tensor, "S C"] | None = None


def are_many(rows: int, columns: int) -> bool:
    """Tell whether so many rows and columns have more logits than may be kept."""
    return rows * columns > MOST_AT_ONCE


def log_sums(table: Table) -> Float[Tensor, "S R"]:
    """Return log sum_c exp(logit) of each row over the columns of other ids; -inf, without gradient, if it has none."""
    return _LogSums.apply(*table)  # pyright: ignore[reportReturnType]  # torch does not type it


def softplus_sum(table: Table, bias: Float[Tensor, ""], *, threshold: float) -> Float[Tensor, ""]:
    """Return the sum over rows and columns of other ids of log(1 + exp(logit + bias)).

    Args:
        threshold: beyond it log(1 + exp(x)) is x.
    """
    return _SoftplusSum.apply(bias, threshold, *table)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def mean_logits(table: Table, log_sums_SR: Float[Tensor, "S R"]) -> Float[Tensor, "S R"]:
    """Return the mean logit of each row under its softmax, without gradient; 0 for a row without columns.

    Args:
        log_sums_SR: what `log_sums` returned.
    """
    means_SR = torch.zeros_like(log_sums_SR)
    for rows, logits_SXC in _blocks(table):
        shares_SXC = _shares(logits_SXC, log_sums_SR[:, rows])
        means_SR[:, rows] = (shares_SXC * logits_SXC.nan_to_num(neginf=0.0)).sum(dim=2)
    return means_SR


def count_others(
    row_ids_R: Int[Tensor, " R"], column_ids_C: Int[Tensor, " C"]
) -> Int[Tensor, " R"]:
    """Return how many columns of other ids each row has."""
    ordered_C = column_ids_C.sort().values
    row_ids_R = row_ids_R.contiguous()
    first_R = torch.searchsorted(ordered_C, row_ids_R)
    last_R = torch.searchsorted(ordered_C, row_ids_R, right=True)
    return len(ordered_C) - (last_R - first_R)


class _LogSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Any) -> Tensor:  # noqa: ANN401  # torch's own types
        table = Table(*parts)
        sums_SR = table.rows_SRD.new_empty(table.rows_SRD.shape[:2])
        for rows, logits_SXC in _blocks(table):
            sums_SR[:, rows] = torch.logsumexp(logits_SXC, dim=2)
        ctx.save_for_backward(*table, sums_SR)
        return sums_SR

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient_SR,) = gradients
        *parts, sums_SR = ctx.saved_tensors
        found = _Gradients(Table(*parts), are_columns_due=ctx.needs_input_grad[1])
        for rows, logits_SXC in _blocks(found.table):
            shares_SXC = _shares(logits_SXC, sums_SR[:, rows])
            found.add(rows, shares_SXC.mul_(gradient_SR[:, rows, None]))
        return *found.of, None, None, None


class _SoftplusSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bias: Tensor, threshold: float, *parts: Any) -> Tensor:  # noqa: ANN401
        table = Table(*parts)
        total = bias.new_zeros(())
        for _, logits_SXC in _blocks(table):
            total += functional.softplus(logits_SXC.add_(bias), threshold=threshold).sum()
        ctx.save_for_backward(bias, *table)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        bias, *parts = ctx.saved_tensors
        found = _Gradients(Table(*parts), are_columns_due=True)
        of_bias = torch.zeros_like(bias)
        for rows, logits_SXC in _blocks(found.table):
            weights_SXC = logits_SXC.add_(bias).sigmoid_().mul_(gradient)
            of_bias += weights_SXC.sum()
            found.add(rows, weights_SXC)
        return of_bias, None, *found.of, None, None, None


class _Gradients:
    """The gradients of rows and columns, added up block by block."""

    def __init__(self, table: Table, *, are_columns_due: bool) -> None:
        self.table = table
        of_columns_SCD = torch.zeros_like(table.columns_SCD) if are_columns_due else None
        self.of = torch.empty_like(table.rows_SRD), of_columns_SCD

    def add(self, rows: slice, of_logits_SXC: Tensor) -> None:
        """Add what the logits of a block are due."""
        of_rows_SRD, of_columns_SCD = self.of
        of_rows_SRD[:, rows] = of_logits_SXC @ self.table.columns_SCD
        if of_columns_SCD is not None:
            of_columns_SCD.baddbmm_(of_logits_SXC.transpose(1, 2), self.table.rows_SRD[:, rows])


def _blocks(table: Table) -> Iterator[tuple[slice, Float[Tensor, "S X C"]]]:
    """Yield the logits block by block, -inf where ids are equal; each may be written to."""
    sides, num_rows, _ = table.rows_SRD.shape
    logits = _BLOCK.get(table.rows_SRD.device.type, _BLOCK_ELSEWHERE)
    step = max(1, logits // (sides * len(table.column_ids_C)))
    columns_SDC = table.columns_SCD.transpose(1, 2)
    for first in range(0, num_rows, step):
        rows = slice(first, min(first + step, num_rows))
        logits_SXC = table.rows_SRD[:, rows] @ columns_SDC
        if table.offsets_SC is not None:
            logits_SXC += table.offsets_SC[:, None]
        is_own_XC = table.row_ids_R[rows, None] == table.column_ids_C
        yield rows, logits_SXC.masked_fill_(is_own_XC, -torch.inf)


def _shares(logits_SXC: Tensor, log_sums_SX: Tensor) -> Float[Tensor, "S X C"]:
    """Return exp(logit - log sum): the softmax, 0 in a row without columns."""
    finite_SX = log_sums_SX.masked_fill(log_sums_SX.isneginf(), 0.0)
    return (logits_SXC - finite_SX[..., None]).exp_()
