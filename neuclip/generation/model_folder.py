"""The local Hugging Face folder of a language model: what is read of it, and the model that it holds."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuclip.curate.scores import MODEL_SUFFIXES
from neuclip.foundation.errors import ConfigError
from neuclip.foundation.untrusted_json import (
    read_json,
    require_no_code,
    require_no_kernels,
    require_transformers,
)
from neuclip.generation.config import LocalModel
from neuclip.stages.keys import fingerprint
from neuclip.storage.cache import local_copy
from neuclip.storage.files import list_files, read_bytes
from neuclip.storage.uris import join

SUFFIXES = (*MODEL_SUFFIXES, ".jinja")
"""Of the files that are read: no program, no pickle. Chat templates may lie in files of their own."""

_CONFIG, _TOKENIZER = "config.json", "tokenizer.json"
_CONFIGS = "config.json"
"""Ends the names of the small files in which a program could be named."""
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")

_TRANSCRIPT = (
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% else %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endif %}"
    "{% endfor %}Assistant:"
)
NEXT_TURN = "\nUser:"
"""Where an answer within a transcript ends: what follows is the model playing both parts."""


def fingerprint_model(config: LocalModel) -> str:
    """Return the hash of all that is read of the folder, for keys.

    Raises: DataError: if there is nothing.
    """
    return fingerprint(config.folder, SUFFIXES)


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device with what turns chats into its inputs, both of the transformers library.

    Args:
        processor: applies the chat template; the tokenizer itself if the model sees no images.
        sees: it takes images.
        is_transcript: the folder has no chat template, so chats are written out as a transcript.
        end_ids: tokens that end an answer.
        most_tokens: of question and answer together; None if any number.
    """

    model: Any
    processor: Any
    tokenizer: Any
    sees: bool
    is_transcript: bool
    end_ids: frozenset[int]
    most_tokens: int | None


def load_model(config: LocalModel) -> LoadedModel:
    """Load a model of the transformers library onto the GPU, or the CPU where there is none.

    Raises: ConfigError: if the folder is not a model that can be asked, or wants to run a program of its own.
    """
    require_transformers("a language model in a local folder", extra="llm")
    names = _readable(config.folder)
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            # nothing else of the folder is in reach of the library
            (Path(place) / name).symlink_to(local_copy(join(config.folder, name)).absolute())
        try:
            return _load(Path(place), config)
        except ConfigError:
            raise
        except Exception as error:  # the library and those below it raise whatever is at hand
            raise ConfigError(
                f"the model in {config.folder} cannot be loaded: {error}. Save model and tokenizer anew with "
                "`save_pretrained`, or take another folder"
            ) from error


def _readable(folder_uri: str) -> list[str]:
    """Return the names of the files that may be read.

    Raises: ConfigError: if the folder lacks one that must be there, or wants a program.
    """
    there = list_files(folder_uri)
    names = [name for name in there if name.endswith(SUFFIXES) and "/" not in name]
    for name in (_CONFIG, _TOKENIZER):
        if name not in names:
            raise ConfigError(
                f"{folder_uri} has no {name}; expected the folder of a language model and its fast tokenizer, as "
                "`save_pretrained` of the transformers library writes it"
            )
    for name in names:
        if name.endswith(_CONFIGS):
            where = join(folder_uri, name)
            content = read_json(read_bytes(where), where)
            require_no_code(where, content)
            require_no_kernels(where, content)
    if not any(name.endswith(".safetensors") for name in names):
        pickles = [name for name in there if name.endswith(_PICKLES)]
        why = f"; {pickles[0]} is a pickle, which is never opened" if pickles else ""
        raise ConfigError(
            f"{folder_uri} has no *.safetensors{why}. Save the model with "
            "`save_pretrained(folder, safe_serialization=True)`"
        )
    return names


def _load(place: Path, config: LocalModel) -> LoadedModel:
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoTokenizer,
    )
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the stage shows its own
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    described: Any = AutoConfig.from_pretrained(place, **local)
    sees = _sees(place, described, origin=config.folder)
    kind: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    model, found = kind.from_pretrained(
        place,
        dtype=getattr(torch, {"bf16": "bfloat16"}.get(config.precision, config.precision)),
        use_safetensors=True,
        output_loading_info=True,
        **local,
    )
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ConfigError(
            f"the weights in {config.folder} lack {missing[0]} and {len(missing) - 1} others of the model that its "
            f"{_CONFIG} describes; save the model anew with `save_pretrained`"
        )
    loader: Any = AutoProcessor if sees else AutoTokenizer
    processor = loader.from_pretrained(place, **local)
    tokenizer = processor.tokenizer if sees else processor
    is_transcript = processor.chat_template is None
    if is_transcript:
        if sees:
            raise ConfigError(
                f"{config.folder} has no chat template, so that nothing says where an image stands in a question; "
                "take the model's folder with chat_template.jinja"
            )
        tokenizer.chat_template = _TRANSCRIPT
    return LoadedModel(
        model=model.eval().to("cuda" if torch.cuda.is_available() else "cpu"),
        processor=processor,
        tokenizer=tokenizer,
        sees=sees,
        is_transcript=is_transcript,
        end_ids=_end_ids(model, tokenizer, origin=config.folder),
        most_tokens=getattr(described.get_text_config(), "max_position_embeddings", None),
    )


def _sees(place: Path, described: Any, *, origin: str) -> bool:  # noqa: ANN401  # of a library that need not be installed
    """Tell whether the model takes images.

    Raises: ConfigError: if it writes no text.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
    )

    kind = type(described)
    is_encoder = kind in MODEL_FOR_MASKED_LM_MAPPING and not getattr(described, "is_decoder", False)
    is_text: bool = kind in MODEL_FOR_CAUSAL_LM_MAPPING and not is_encoder
    takes_images: bool = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if not is_text and not takes_images:
        raise ConfigError(
            f"{origin} holds a model of type {described.model_type}, which writes no answers; take a causal language "
            "model, or an image-text model, with a chat template"
        )
    has_processor = any((place / name).exists() for name in _PROCESSORS)
    if takes_images and not is_text and not has_processor:
        raise ConfigError(
            f"{origin} holds a model that sees images, but has no {' or '.join(_PROCESSORS)}; take the model's folder "
            "with its processor"
        )
    return takes_images and has_processor


def _end_ids(model: Any, tokenizer: Any, *, origin: str) -> frozenset[int]:  # noqa: ANN401
    """Return the tokens that end an answer; pads with one of them if the tokenizer has no padding.

    Raises: ConfigError: if there is none.
    """
    listed = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])} - {None}
    if not ends:
        raise ConfigError(
            f"the tokenizer in {origin} has no eos_token, by which an answer would end; set it in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(min(ends))
    tokenizer.padding_side = "left"
    return frozenset(ends)
