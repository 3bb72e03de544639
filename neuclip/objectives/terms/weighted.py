"""The terms of a recipe: built by name, weighed, and added to the objective's loss."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from neuclip.foundation.errors import CheckpointError
from neuclip.foundation.modules import the_class_in
from neuclip.objectives.encoded import Encoded
from neuclip.objectives.loss_part import TrainableGroup
from neuclip.objectives.objective import ObjectiveResult
from neuclip.objectives.terms.config import TermConfig
from neuclip.objectives.terms.term import About, States, Term


class WeightedTerms(nn.Module):
    """Terms by name, each with its weight; one of weight 0 is not built and costs nothing.

    Definition: loss = w_0 objective / scale + w_1 term_1 + w_2 term_2 + ..., added in the order of the recipe. The
    scale is what makes the objective's loss nats per anchor, as those of terms are: a weight, a limit of the gradient's
    norm or an optimiser's epsilon then means the same beside every objective, whose own loss may carry a factor tau.

    Args:
        sections: recipe sections by name.
        objective_weight: w_0.
        about: the run.
    """

    def __init__(
        self,
        sections: Mapping[str, TermConfig],
        *,
        objective_weight: float,
        about: About,
    ) -> None:
        super().__init__()
        self._objective_weight = objective_weight
        self._weights = {name: one.weight for name, one in sections.items() if one.weight > 0}
        self._terms = nn.ModuleDict(
            {
                name: the_class_in(f"neuclip.objectives.terms.{sections[name].name}", Term)(
                    sections[name], name, about
                )
                for name in self._weights
            }
        ).to(about.world.device)

    @property
    def states(self) -> dict[str, States]:
        """The views of texts of which a term reads the token states."""
        return {view: how for _, term in self._each() for view, how in term.states.items()}

    def add_to(
        self, result: ObjectiveResult, encoded: Encoded, temperature: Float[Tensor, ""]
    ) -> ObjectiveResult:
        """Return the objective's result with the weighted sum as its loss, and each part among its metrics."""
        loss = result.loss / result.scale
        if not self._weights and self._objective_weight == 1:
            return replace(result, loss=loss)
        metrics = {**result.metrics, "objective_loss": loss.detach()}
        if self._objective_weight != 1:
            loss = self._objective_weight * loss
        for name, term in self._each():
            found = term(encoded, temperature)
            loss = loss + self._weights[name] * found.loss
            metrics[f"term_{name}_loss"] = found.loss.detach()
            metrics |= {f"term_{name}_{of}": value for of, value in found.metrics.items()}
        return replace(result, loss=loss, metrics=metrics)

    def trainable(self) -> list[TrainableGroup]:
        """Return what the trainer's optimiser has to update."""
        return [group for _, term in self._each() for group in term.trainable()]

    def advance(self, step: int) -> None:
        """Close a training step, after the optimiser's update."""
        for _, term in self._each():
            term.advance(step)

    def start_phase(self) -> None:
        """Begin a new phase of training."""
        for _, term in self._each():
            term.start_phase()

    def whole_state(self) -> dict[str, dict[str, Any]]:
        """Return every term's whole state; all ranks must call it."""
        return {name: term.whole_state() for name, term in self._each()}

    def load_whole_state(self, state: Mapping[str, dict[str, Any]]) -> None:
        """Take back what `whole_state` returned.

        Raises: CheckpointError: if it is of other terms.
        """
        if state.keys() != self._weights.keys():
            raise CheckpointError(
                f"the saved state has terms {sorted(state) or 'none'}, the recipe {sorted(self._weights) or 'none'}; "
                "load it with the recipe it was saved with, or start anew"
            )
        for name, term in self._each():
            term.load_whole_state(state[name])

    def _each(self) -> Iterator[tuple[str, Term]]:
        for name, term in self._terms.items():
            assert isinstance(term, Term)
            yield name, term
