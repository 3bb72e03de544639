"""Training shards for other tools: plain tars with the chosen texts inside, as open_clip and webdataset read them."""

import json
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, Field

from neuclip.foundation.errors import ConfigError
from neuclip.foundation.progress import Progress, silent
from neuclip.index.reader import read_samples
from neuclip.journey import identify
from neuclip.loading.captions import Captions
from neuclip.loading.mapped_files import CACHE_GB
from neuclip.loading.shard_files import ShardFiles
from neuclip.loading.tar_samples import IMAGE_SUFFIXES, TarSample
from neuclip.loading.tar_samples import read_samples as read_tar
from neuclip.recipe import Recipe
from neuclip.shards.tar import TarShard
from neuclip.stages.keys import digest
from neuclip.stages.manifest import is_committed
from neuclip.stages.scratch import scratch_folder
from neuclip.storage.files import exists, list_files, put_file, read_bytes, write_bytes
from neuclip.storage.roots import require_folder
from neuclip.storage.uris import absolute, join

RECORD = "export.json"
"""Written last: what the folder holds."""


class Export(BaseModel):
    """What was written.

    Args:
        sources: of the texts, in the order of preference.
        without_text: samples that have no text of these sources, which are left out.
    """

    key: str
    folder: str
    sources: list[str]
    samples: int = 0
    without_text: int = 0
    shards: list[str] = Field(default_factory=list[str])
    state: str = "ran"
    """ran or cached."""


def export_shards(
    recipe: Recipe, folder: str, *, sources: Sequence[str], progress: Progress = silent
) -> Export:
    """Write the training samples of a recipe to a folder, shard by shard in the order of their ids.

    A sample is KEY.jpg, .png or .webp; KEY.txt, its first text of the first of the sources that it has; KEY.json with
    its uid, id, address, size and all texts of the sources. An export that is there already is left as it is.

    Raises: ConfigError: if index and shards have not been made, a source is not there, or the folder holds other files.
    """
    identities = identify(recipe)
    shard_uri, index_uri = identities["shard"].uri, identities["index"].uri
    if not is_committed(index_uri):
        raise ConfigError(
            f"an export needs the index, which has not been made with this recipe ({index_uri} is not committed); run "
            "`--only index`, or the whole recipe"
        )
    captions = Captions(index_uri, cache_gb=CACHE_GB)
    _check_sources(sources, captions.sources)
    target = absolute(folder)
    key = digest({"index": identities["index"].key, "sources": list(sources)})
    export = Export(key=key, folder=target, sources=list(sources))
    if (done := _earlier(recipe, export)) is not None:
        return done
    names = read_samples(index_uri).shards
    files = ShardFiles(shard_uri, cache_gb=CACHE_GB)
    with scratch_folder(recipe.root) as scratch:
        for number, name in enumerate(names):
            progress("export", done=number, total=len(names), note=f"{export.samples} samples")
            path = scratch / f"shard-{number:06d}.tar"
            with TarShard(path) as tar:
                for sample, texts in _samples(files, captions, name, sources):
                    _add(tar, sample, texts, export)
            put_file(path, join(target, path.name))
            export.shards.append(path.name)
            files.close_all_but([])
            captions.side.close_all_but([])
    write_bytes(join(target, RECORD), export.model_dump_json(indent=1).encode())
    progress("export", done=len(names), total=len(names), note=f"{export.samples} samples")
    return export


def _check_sources(sources: Sequence[str], known: Sequence[str]) -> None:
    for source in sources:
        if source not in known:
            raise ConfigError(
                f"no sample has a text of source {source!r}; sources of the samples: {', '.join(known)}"
            )


def _earlier(recipe: Recipe, export: Export) -> Export | None:
    """Return the same export if the folder holds it.

    Raises: ConfigError: if it holds anything else, or lies where a takedown would have to reach it.
    """
    require_folder(export.folder, "the folder of an export")
    root = absolute(recipe.root).rstrip("/")
    if f"{export.folder}/".startswith(f"{root}/"):
        raise ConfigError(
            f"{export.folder} lies below the root {root}, where takedowns promise to reach every copy; export to a "
            "folder outside of it"
        )
    record = join(export.folder, RECORD)
    if exists(record):
        done = Export.model_validate_json(read_bytes(record))
        if done.key == export.key:
            return done.model_copy(update={"folder": export.folder, "state": "cached"})
    there = list_files(export.folder)
    unfinished = not exists(record) and all(name.startswith("shard-") for name in there)
    if there and not unfinished:
        raise ConfigError(
            f"{export.folder} holds other files ({', '.join(sorted(there)[:3])}); export to a folder that is empty"
        )
    return None


def _samples(
    files: ShardFiles, captions: Captions, name: str, sources: Sequence[str]
) -> Iterator[tuple[TarSample, dict[str, list[str]]]]:
    """Yield the samples of a shard with their texts by source."""
    for row, sample in enumerate(read_tar(files.open(name).path)):
        found = {source: captions.texts(source, name, row) for source in sources}
        yield sample, {source: texts for source, texts in found.items() if texts}


def _add(tar: TarShard, sample: TarSample, texts: dict[str, list[str]], export: Export) -> None:
    if not texts:
        export.without_text += 1
        return
    suffix = next(suffix for suffix in IMAGE_SUFFIXES if suffix in sample.parts)
    record = {**json.loads(sample.parts["json"]), "captions": texts}
    tar.add(f"{sample.key}.{suffix}", sample.parts[suffix])
    tar.add(f"{sample.key}.txt", next(iter(texts.values()))[0].encode())
    tar.add(f"{sample.key}.json", json.dumps(record, ensure_ascii=False, sort_keys=True).encode())
    export.samples += 1


def lines(export: Export) -> Iterator[str]:
    """Yield what a person is told of an export."""
    said = "was there already" if export.state == "cached" else "written"
    yield f"{export.samples} samples in {len(export.shards)} shards {said}: {export.folder}"
    yield f"texts of {', '.join(export.sources)}; {export.without_text} samples have none of these and were left out"
