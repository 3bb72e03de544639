"""What every term is to the training step."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from neuclip.distributed.world import World
from neuclip.objectives.encoded import Encoded
from neuclip.objectives.loss_part import LossPart, TrainableGroup
from neuclip.objectives.terms.config import Views
from neuclip.tokens.vocabulary import Vocabulary


class TermResult(NamedTuple):
    """What one batch gave.

    Args:
        loss: scalar whose gradient, averaged over ranks, is that of the term on the global batch.
        metrics: named statistics of the local batch, without gradient.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, float | Tensor]


class States(NamedTuple):
    """How a view of texts is encoded for a term that reads the states of its tokens.

    Args:
        mask: what hidden tokens become before the first block; None if none are hidden.
        is_bidirectional: whether tokens see those after them in a tower that reads from left to right.
    """

    mask: nn.Parameter | None = None
    is_bidirectional: bool = False


class About(NamedTuple):
    """What a term is told of its run.

    Args:
        feature_dim: width D of the embeddings.
        num_samples: pairs in the data set.
        seed: of the run; new weights are a pure function of it and the term's name.
        views: those that the recipe describes; views that a term has of its own are not among them.
        vocabulary: says what tokens the text tower reads; raises ConfigError if it reads none.
    """

    feature_dim: int
    num_samples: int
    seed: int
    world: World
    views: Views
    vocabulary: Callable[[], Vocabulary]


class Term(LossPart):
    """A loss beside the objective, with parameters and state of its own, if any.

    In training mode `forward` may update inner state; in evaluation mode it changes nothing. Its parameters are for
    training alone: they are in checkpoints, not in the published model.

    Args:
        config: its recipe section.
        name: in the recipe.
    """

    def __init__(
        self,
        config: Any,  # noqa: ANN401  # each term's own section
        name: str,
        about: About,
    ) -> None:
        super().__init__(
            feature_dim=about.feature_dim, num_samples=about.num_samples, world=about.world
        )
        self.views = config.reads(about.views, name)

    @property
    def states(self) -> Mapping[str, States]:
        """The views of texts of which the term reads the token states."""
        return {}

    @abstractmethod
    def forward(self, encoded: Encoded, temperature: Float[Tensor, ""]) -> TermResult:
        """Return the loss of the local batch.

        Args:
            encoded: every view that the term's section names.
            temperature: the objective's present one, with gradient if it is learned by one.
        """

    def trainable(self) -> list[TrainableGroup]:
        """Return the term's own weights, at the encoders' rate; matrices decay."""
        kinds = {True: list[nn.Parameter](), False: list[nn.Parameter]()}
        for parameter in self.parameters():
            kinds[parameter.ndim > 1].append(parameter)
        return [
            TrainableGroup(type(self).__name__, found, None, decays=decays)
            for decays, found in kinds.items()
            if found
        ]
