"""The stage text_encoder: an encoder as a folder of its own, and the features of all texts that are trained on."""

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from neuclip.captions.files import read_parts
from neuclip.captions.text_features import FEATURE_PARTS, FEATURE_PARTS_SCHEMA
from neuclip.foundation.errors import ConfigError, DataError, nearest
from neuclip.foundation.progress import Progress
from neuclip.stages.committed import committed_folder
from neuclip.stages.keys import digest
from neuclip.stages.ledger import add_ledgers, make_ledger
from neuclip.stages.loaded import Loaded
from neuclip.stages.manifest import Manifest, part_uri, read_manifest
from neuclip.stages.part_work import do_parts
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.storage.cache import local_copy
from neuclip.storage.uris import join, name_of
from neuclip.text_encoder.config import STAGE_VERSION, TextEncoderConfig
from neuclip.text_encoder.encoder import TextEncoder, describe_encoder, load_encoder
from neuclip.text_encoder.features import STAGE, feature_part
from neuclip.text_encoder.folder import encoder_files
from neuclip.text_encoder.record import ENCODER, EncoderRecord, parse_record

FOLDER = "encoder"
"""Of the part with the encoder: its files, and encoder.json."""


def run_text_encoder(
    config: TextEncoderConfig,
    *,
    root: str,
    caption_uri: str,
    encoder_uri: str,
    workspace: Workspace,
    progress: Progress,
    pool: Pool = LOCAL,
    force: bool = False,
) -> Outcome:
    """Commit the features of each caption part as a part, and list them.

    Args:
        encoder_uri: committed part with the encoder, see `commit_encoder`.
        force: make features anew.

    Raises:
        ConfigError: if the folder is no encoder, or a source is not there.
        DataError: if more texts are longer than the encoder reads than may be. NumericsError: for a feature that is
            not finite.
    """
    sources = _sources(config, caption_uri)
    rows = [row for row in read_parts(caption_uri) if row["source"] in sources]
    record = encoder_record(encoder_uri)
    encoder = Loaded(partial(open_encoder, encoder_uri))
    total = sum(int(row["texts"]) for row in rows)
    most = int(config.max_truncated * total)
    parts = [
        feature_part(
            encoder,
            record,
            part_uri(caption_uri, row["part"]),
            source=row["source"],
            texts=int(row["texts"]),
            most_truncated=most,
            batch_tokens=config.batch_tokens,
            root=root,
        )
        for row in rows
    ]
    manifests = do_parts(parts, pool=pool, progress=progress, force=force)
    truncated = sum(part.summary["truncated"] for part in manifests)
    if truncated > most:  # in parts that have few of them each
        raise DataError(
            f"{truncated} of {total} texts are longer than text_encoder.max_tokens {config.max_tokens}, at most {most} "
            "may be cut (max_truncated); raise max_tokens, or max_truncated to have them cut"
        )
    _list_parts(rows, manifests, workspace)
    progress(STAGE, done=total, total=total, note=f"{total} texts, {truncated} cut")
    summary = {
        "encoder": record.model_dump(),
        "tuning": read_manifest(encoder_uri).summary,
        "truncated": truncated,
        "sources": _count_by_source(rows),
    }
    keys = [name_of(encoder_uri), *(part.key for part in manifests)]
    return Outcome(add_ledgers(part.ledger for part in manifests), summary, keys)


def _count_by_source(rows: Iterable[Mapping[str, str]]) -> dict[str, int]:
    texts: Counter[str] = Counter()
    for row in rows:
        texts[row["source"]] += int(row["texts"])
    return dict(texts)


def _sources(config: TextEncoderConfig, caption_uri: str) -> list[str]:
    """Return the sources to encode.

    Raises: ConfigError: for one that no pair has a text of.
    """
    known = list(dict.fromkeys(row["source"] for row in read_parts(caption_uri)))
    for source in config.sources or []:
        if source not in known and source != "alt":
            raise ConfigError(
                f"text_encoder is to encode the caption source {source!r}, which no pair has a text of; sources here: "
                f"{', '.join(known)}.{nearest(source, known)} Change train.captions or text_encoder.sources"
            )
    return known if config.sources is None else config.sources


def commit_encoder(config: TextEncoderConfig, root: str) -> str:
    """Commit an encoder as it lies in its folder, with its record; return the part's folder."""
    record = describe_encoder(config.folder, config)
    key = digest({"version": STAGE_VERSION, "encoder": record.fingerprint})
    identity = StageIdentity(
        STAGE, STAGE_VERSION, key, {}, {"encoder": record.fingerprint}, root, part=True
    )
    commit_stage(identity, partial(_copy, config.folder, record))
    return identity.uri


def _copy(folder_uri: str, record: EncoderRecord, workspace: Workspace) -> Outcome:
    target = workspace.output / FOLDER
    target.mkdir()
    names = encoder_files(folder_uri)
    for name in names:
        shutil.copyfile(local_copy(join(folder_uri, name)), target / name)
    (target / ENCODER).write_bytes(record.to_bytes())
    return Outcome(make_ledger(len(names), len(names), {}))


def encoder_record(encoder_part_uri: str) -> EncoderRecord:
    """Return the record of a committed encoder."""
    folder = committed_folder(encoder_part_uri, FOLDER)
    return parse_record((folder / ENCODER).read_bytes(), str(folder / ENCODER))


def open_encoder(encoder_part_uri: str) -> TextEncoder:
    """Load a committed encoder onto this machine's device, after comparing its files with what was committed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = committed_folder(encoder_part_uri, FOLDER)
    return load_encoder(str(folder), encoder_record(encoder_part_uri), device=device)


def committed_encoder(text_encoder_uri: str) -> Path:
    """Return a local folder with the encoder of a committed stage; its files are what was committed."""
    part = read_manifest(text_encoder_uri).parts[0]
    return committed_folder(part_uri(text_encoder_uri, part), FOLDER)


def _list_parts(
    rows: Sequence[dict[str, str]], manifests: Sequence[Manifest], workspace: Workspace
) -> None:
    listed = [
        {
            "source": row["source"],
            "captions": row["part"],
            "part": part.key,
            "texts": part.ledger.out,
            "truncated": part.summary["truncated"],
        }
        for row, part in zip(rows, manifests, strict=True)
    ]
    table = pa.Table.from_pylist(listed, schema=FEATURE_PARTS_SCHEMA)
    pq.write_table(table, workspace.output / FEATURE_PARTS)
