"""The part with a tuned encoder: a folder as the library saves it, its record, and what tuning was worth."""

import json
from functools import partial

import torch

from neuclip.captions.files import read_parts
from neuclip.foundation.progress import Progress
from neuclip.stages.keys import digest
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.storage.cache import local_copy
from neuclip.storage.files import remove
from neuclip.storage.uris import join
from neuclip.text_encoder.config import STAGE_VERSION, TextEncoderConfig
from neuclip.text_encoder.encoder import describe_encoder, load_encoder
from neuclip.text_encoder.features import STAGE
from neuclip.text_encoder.folder import MODEL_CONFIG, WEIGHTS_SUFFIXES, encoder_files
from neuclip.text_encoder.record import ENCODER, EncoderRecord, fingerprint_of
from neuclip.text_encoder.run import FOLDER
from neuclip.text_encoder.tune_config import TuneConfig
from neuclip.tuning.retrieval import caption_retrieval
from neuclip.tuning.triples import Triples, read_pairs, split
from neuclip.tuning.tune import Tuner
from neuclip.tuning.warm_up import warm_up

_TUNING = "tuning"
"""Folder of the stage with states to go on from, by the key of the part."""


def commit_tuned(
    config: TextEncoderConfig,
    tune: TuneConfig,
    *,
    caption_uri: str,
    root: str,
    seed: int,
    progress: Progress,
) -> str:
    """Tune the encoder of a folder on captions unless that is done, and commit it; return the part's folder.

    What it is known by: the folder's content, the section, the seed, and the texts of both sources.

    Raises: ConfigError, DataError: if folder or captions cannot be used. NumericsError: for a loss that is not finite.
    """
    base = describe_encoder(config.folder, config)
    made_of = {
        "version": STAGE_VERSION,
        "encoder": base.fingerprint,
        "tune": tune.keyed(),
        "seed": seed,
        "captions": sorted(
            row["part"]
            for row in read_parts(caption_uri)
            if row["source"] in (tune.short, tune.long)
        ),
    }
    identity = StageIdentity(
        STAGE,
        STAGE_VERSION,
        digest(made_of),
        {"tune": tune.keyed()},
        {"encoder": base.fingerprint},
        root,
        part=True,
    )
    state_uri = join(root, STAGE, _TUNING, f"{identity.key}.safetensors")
    work = partial(_tune, config, tune, base, caption_uri, seed, state_uri, progress)
    commit_stage(identity, work)
    remove(state_uri)
    return identity.uri


def _tune(
    config: TextEncoderConfig,
    tune: TuneConfig,
    base: EncoderRecord,
    caption_uri: str,
    seed: int,
    state_uri: str,
    progress: Progress,
    workspace: Workspace,
) -> Outcome:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    every = read_pairs(caption_uri, short=tune.short, long=tune.long)
    pairs, held_out = split(every, held_out=tune.held_out, seed=seed)
    encoder = load_encoder(config.folder, base, device=device)
    before = caption_retrieval(encoder, held_out, batch_tokens=config.batch_tokens)
    warmed = warm_up(encoder, tune, pairs, config.folder, seed=seed, progress=progress)
    triples = Triples(pairs, seed=seed, to_long=tune.to_long, to_short=tune.to_short)
    done = Tuner(encoder, tune, seed=seed, state_uri=state_uri).run(triples, progress)
    after = caption_retrieval(encoder, held_out, batch_tokens=config.batch_tokens)
    _write(encoder.model, config, tune, base, workspace)
    summary = {
        "steps": done.steps,
        "warm_up": warmed,
        "loss": done.losses,
        "retrieval_before": before,
        "retrieval_after": after,
    }
    return Outcome(make_ledger(len(every), len(pairs), {"held_out": len(held_out)}), summary)


def _write(
    model: torch.nn.Module,
    config: TextEncoderConfig,
    tune: TuneConfig,
    base: EncoderRecord,
    workspace: Workspace,
) -> None:
    """Write the folder: the weights anew, all else as it was."""
    target = workspace.output / FOLDER
    model.save_pretrained(target)  # pyright: ignore[reportCallIssue]  # of the transformers library
    for name in encoder_files(config.folder):
        if name != MODEL_CONFIG and not name.endswith(WEIGHTS_SUFFIXES):
            (target / name).write_bytes(local_copy(join(config.folder, name)).read_bytes())
    described = json.loads((target / MODEL_CONFIG).read_bytes())
    described.pop("_name_or_path", None)  # no path of a machine
    (target / MODEL_CONFIG).write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
    names = encoder_files(str(target))
    record = base.model_copy(
        update={
            "fingerprint": fingerprint_of(str(target), names, config),
            "instructions": tune.instructions,
        }
    )
    (target / ENCODER).write_bytes(record.to_bytes())
