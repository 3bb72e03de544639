"""What a model folder can be exported as."""

from typing import Literal

Export = Literal["open_clip", "open_clip_inside", "open_clip_image"]
"""Who reads a model folder beside neuclip: `open_clip` is `open_clip.create_model_and_transforms("local-dir:FOLDER")`
from anywhere, `open_clip_inside` is `("local-dir:.")` of a program that runs inside the folder, `open_clip_image` is
`open_clip` for the image tower alone."""

ANYWHERE: frozenset[Export] = frozenset({"open_clip", "open_clip_inside"})
INSIDE: frozenset[Export] = frozenset({"open_clip_inside"})
IMAGE: frozenset[Export] = frozenset({"open_clip_image"})
