"""Which backend asks which model."""

from neuclip.generation.backend import Backend
from neuclip.generation.config import Endpoint, Model, Sampling
from neuclip.generation.endpoint import ChatEndpoint
from neuclip.generation.local_model import LocalChat


def make_backend(model: Model, sampling: Sampling) -> Backend:
    """Return what asks a model.

    Raises: ConfigError: for a model folder that cannot be read, or a key that is not there.
    """
    if isinstance(model, Endpoint):
        return ChatEndpoint(model, sampling)
    return LocalChat(model, sampling)
