"""Recipe sections of the policies for text tokens."""

from typing import Annotated, Literal

from pydantic import Field

from neuclip.foundation.config import Section


class PlainConfig(Section):
    """Tokens as the model's tokenizer makes them: the first ones of a text that is too long."""

    name: Literal["plain"] = Field(default="plain", description="which policy this section is of")


TextTokensConfig = Annotated[PlainConfig, Field()]
