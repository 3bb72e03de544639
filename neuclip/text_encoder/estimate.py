"""What encoding the texts would take: counted before it begins, from small files and one part's texts."""

import pyarrow.parquet as pq

from neuclip.captions.files import TEXTS, read_parts
from neuclip.captions.text_features import CAPTION_PART, ENCODER
from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import PARTS, is_committed, part_uri, read_manifest
from neuclip.stages.stage import Estimate
from neuclip.storage.files import list_files, list_folders
from neuclip.storage.uris import join
from neuclip.text_encoder.config import TextEncoderConfig
from neuclip.text_encoder.encoder import describe_encoder
from neuclip.text_encoder.features import STAGE
from neuclip.text_encoder.folder import read_model_config

_CHARACTERS_A_TOKEN = 4
_SAMPLE = 1000
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_SPECIALS = 2


def estimate_features(config: TextEncoderConfig, *, root: str, caption_uri: str) -> Estimate:
    """Return for the texts that are not encoded: their number, tokens, bytes on disk, FLOP, hours and money.

    A token is four characters of the first texts of a source; a token costs two FLOP for each weight; hours and money
    are told where `tflops` and `price_per_hour` say what a device does and costs. Texts are taken as not encoded where
    the encoder is tuned first.
    """
    record = describe_encoder(config.folder, config)
    encoded = set() if config.tune else _encoded(root, record.fingerprint)
    found: Estimate = {}
    rows = [row for row in read_parts(caption_uri) if row["source"] in (config.sources or [])]
    for source in dict.fromkeys(row["source"] for row in rows):
        missing = [row for row in rows if row["source"] == source and row["part"] not in encoded]
        texts = sum(int(row["texts"]) for row in missing)
        tokens = texts * _tokens_of(caption_uri, missing[0]["part"], config) if texts else 0.0
        found[source] = _cost(config, texts, tokens, width=record.width)
    return found


def _cost(config: TextEncoderConfig, texts: int, tokens: float, *, width: int) -> dict[str, float]:
    flop = 2 * _parameters(config.folder) * tokens
    cost: dict[str, float] = {
        "texts": texts,
        "tokens": round(tokens),
        "gigabytes": round(texts * width * 2 / 1e9, 3),
        "petaflop": round(flop / 1e15, 3),
    }
    if config.tflops is not None:
        cost["hours"] = round(flop / (config.tflops * 1e12) / 3600, 2)
        if config.price_per_hour is not None:
            cost["money"] = round(cost["hours"] * config.price_per_hour, 2)
    return cost


def _encoded(root: str, fingerprint: str) -> set[str]:
    """Return the caption parts whose texts this encoder has encoded."""
    stage_uri = join(root, STAGE)
    uris = [join(stage_uri, PARTS, part) for part in list_folders(join(stage_uri, PARTS))]
    inputs = [read_manifest(uri).inputs for uri in uris if is_committed(uri)]
    return {
        one[CAPTION_PART]
        for one in inputs
        if one.get(ENCODER) == fingerprint and CAPTION_PART in one
    }


def _tokens_of(caption_uri: str, part: str, config: TextEncoderConfig) -> float:
    """Return about how many tokens a text has, from the first texts of a part."""
    path = committed_file(part_uri(caption_uri, part), TEXTS)
    with pq.ParquetFile(path) as file:
        batch = next(file.iter_batches(_SAMPLE, columns=["text"]), None)
    texts = [text for text in batch["text"].to_pylist() if text] if batch is not None else []
    lengths = [
        min(len(text) / _CHARACTERS_A_TOKEN + _SPECIALS, config.max_tokens) for text in texts
    ]
    return sum(lengths) / max(len(lengths), 1)


def _parameters(folder_uri: str) -> float:
    """Return about how many weights a folder holds, by the size of its files."""
    described = read_model_config(folder_uri)
    kind = str(described.get("dtype") or described.get("torch_dtype") or "float32")
    size = sum(n for name, n in list_files(folder_uri).items() if name.endswith(".safetensors"))
    return size / _BYTES.get(kind, 4)
