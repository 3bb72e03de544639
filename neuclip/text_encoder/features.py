"""A part of the stage: the features of the texts of one caption part, kept under the root for every later run."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from neuclip.captions.text_features import (
    CAPTION_PART,
    ENCODER,
    FEATURES,
    TextRow,
    texts_to_encode,
    write_rows,
)
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import Progress
from neuclip.stages.keys import digest
from neuclip.stages.ledger import make_ledger
from neuclip.stages.loaded import Loaded
from neuclip.stages.part_work import Part
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace
from neuclip.storage.uris import name_of
from neuclip.text_encoder.config import FEATURES_VERSION
from neuclip.text_encoder.encoder import TextEncoder
from neuclip.text_encoder.record import EncoderRecord

STAGE = "text_encoder"
_AT_ONCE = 2048


def feature_part(
    encoder: Loaded[TextEncoder],
    record: EncoderRecord,
    caption_part_uri: str,
    *,
    source: str,
    texts: int,
    most_truncated: int,
    batch_tokens: int,
    root: str,
) -> Part:
    """Return the part with the features of a caption part: known by these texts and the encoder's fingerprint.

    Args:
        texts: about how many there are, for the progress.
        most_truncated: texts that may be cut.
    """
    inputs = {CAPTION_PART: name_of(caption_part_uri), ENCODER: record.fingerprint}
    key = digest({"version": FEATURES_VERSION, **inputs})
    return Part(
        StageIdentity(STAGE, FEATURES_VERSION, key, {"source": source}, inputs, root, part=True),
        partial(_encode, encoder, caption_part_uri, source, most_truncated, batch_tokens),
        note=f"encoding {source} of {name_of(caption_part_uri)[:8]}",
        size=max(texts, 1),
    )


def _encode(
    encoder: Loaded[TextEncoder],
    caption_part_uri: str,
    source: str,
    most_truncated: int,
    batch_tokens: int,
    workspace: Workspace,
    progress: Progress,
) -> Outcome:
    rows, unusable = texts_to_encode(caption_part_uri)
    here = encoder.here()
    write_rows(workspace.output, rows)
    shape = (len(rows), here.record.width)
    truncated, done = 0, 0
    with (workspace.output / FEATURES).open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f2", "fortran_order": False, "shape": shape}
        )
        for first in range(0, len(rows), _AT_ONCE):
            some = rows[first : first + _AT_ONCE]
            features, cut = here.encode([row.text for row in some], batch_tokens=batch_tokens)
            truncated += cut
            if truncated > most_truncated:
                raise too_long(some, here, truncated, most_truncated, source)
            file.write(features.astype("<f2").tobytes())
            done += len(some)
            progress(STAGE, done=done, total=len(rows), note=f"encoding {source}")
    ledger = make_ledger(len(rows) + unusable, len(rows), {"unusable": unusable})
    return Outcome(ledger, {"truncated": truncated, "width": shape[1]})


def too_long(
    rows: Sequence[TextRow], encoder: TextEncoder, found: int, most: int, source: str
) -> DataError:
    """Return the error for more texts than may be cut, naming one of them."""
    cut = next(
        row.text
        for row, tokens in zip(rows, encoder.tokenizer.of([r.text for r in rows]), strict=True)
        if tokens.is_cut
    )
    return DataError(
        f"{found} texts of source {source!r} are longer than text_encoder.max_tokens {encoder.record.max_tokens}, at "
        f"most {most} may be cut (max_truncated); one begins {cut[:60]!r}. Raise max_tokens, or max_truncated to have "
        "them cut"
    )
