"""The demo's folder: pictures, a URL table in which some links are broken, and the evaluation sets.

    images/000/000042.jpg   urls.parquet   evaluation/wds_scenes_{shapes,retrieval}/   demo.json

`demo.json` is written last and says which settings the folder was made with.
"""

import hashlib
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.demo.captions import write_caption, write_rewrite
from neuclip.demo.config import DEMO_VERSION, DemoConfig
from neuclip.demo.evaluation_sets import write_retrieval_set, write_shapes_set
from neuclip.demo.scenes import draw, encode, make_scene
from neuclip.demo.server import HOST
from neuclip.foundation.errors import ConfigError
from neuclip.foundation.ids import UID_LENGTH
from neuclip.foundation.randomness import generator
from neuclip.stages.keys import digest

MARKER = "demo.json"
TABLE = "urls.parquet"
EVALUATION = "evaluation"

DEFECTS = {
    "missing": 0.02,  # a link to nothing
    "corrupt": 0.01,  # bytes that are no picture
    "tiny": 0.02,  # a picture of a few pixels
    "duplicate": 0.02,  # the very bytes of another row's picture
    "short": 0.01,  # a caption of one or two letters
    "broken_server": 0.005,  # the server answers 500
}
"""Share of the rows with each defect."""

_TINY_PX = 6
_ROWS_A_FOLDER = 1000
_SCENE_VIEW, _CAPTION_VIEW, _DEFECT_VIEW = 0, 1, 2


@dataclass(frozen=True, slots=True)
class PairOfTable:
    """One row of the URL table and the picture behind it, if there is one."""

    uid: str
    url_path: str
    caption: str
    rewrite: str
    defect: str | None
    content: bytes | None


def prepare(config: DemoConfig) -> Path:
    """Draw the demo's folder unless it is there with these settings; return it.

    Raises: ConfigError: if the folder holds something else, which is never removed.
    """
    folder = Path(config.folder)
    marker = {"version": DEMO_VERSION, "digest": digest([DEMO_VERSION, config.keyed()])}
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise ConfigError(
                f"demo.folder {folder} is not empty and has no {MARKER}, so no demo made it; choose another folder"
            )
        if json.loads((folder / MARKER).read_text(encoding="utf-8")) == marker:
            return folder
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        _write(unfinished, config)
        (unfinished / MARKER).write_text(json.dumps(marker), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def make_pair(number: int, config: DemoConfig) -> PairOfTable:
    """Make row `number` of the table: a pure function of the number, the seed and the picture's size."""
    defect = _defect(number, config)
    shown = _original_of(number, config) if defect == "duplicate" else number
    scene = make_scene(generator(config.seed, sample_id=shown, view=_SCENE_VIEW))
    words = generator(config.seed, sample_id=number, view=_CAPTION_VIEW)
    caption, rewrite = write_caption(scene, words), write_rewrite(scene, words)
    content: bytes | None = None
    path = f"images/{number // _ROWS_A_FOLDER:03d}/{number:06d}.jpg"
    if defect == "missing":
        path = f"missing/{number:06d}.jpg"
    elif defect == "broken_server":
        path = f"-/status/500/{number:06d}.jpg"
    elif defect == "corrupt":
        content = hashlib.shake_128(f"{config.seed}:{number}".encode()).digest(700)
    else:
        content = encode(draw(scene, _TINY_PX if defect == "tiny" else config.image_px))
    return PairOfTable(
        uid=hashlib.sha256(f"demo:{config.seed}:{number}".encode()).hexdigest()[:UID_LENGTH],
        url_path=path,
        caption=scene.things[0].colour[:2] if defect == "short" else caption,
        rewrite=rewrite,
        defect=defect,
        content=content,
    )


def _defect(number: int, config: DemoConfig) -> str | None:
    draw_01 = generator(config.seed, sample_id=number, view=_DEFECT_VIEW).random()
    below = 0.0
    for defect, share in DEFECTS.items():
        below += share
        if draw_01 < below:
            return defect
    return None


def _original_of(number: int, config: DemoConfig) -> int:
    """Return the nearest earlier row with a whole picture of its own, `number` itself if there is none."""
    for earlier in range(number - 1, -1, -1):
        if _defect(earlier, config) in (None, "short"):
            return earlier
    return number


def _write(folder: Path, config: DemoConfig) -> None:
    rows: list[dict[str, str]] = []
    captions: set[str] = set()
    for number in range(config.pairs):
        pair = make_pair(number, config)
        if pair.content is not None:
            path = folder / pair.url_path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pair.content)
        url = f"http://{HOST}:{config.port}/{pair.url_path}"
        texts = {"caption": pair.caption, "rewrite": pair.rewrite}
        rows.append({"url": url, **texts, "uid": pair.uid})
        captions.update(texts.values())
    pq.write_table(pa.Table.from_pylist(rows), folder / TABLE)
    write_shapes_set(folder / EVALUATION / "wds_scenes_shapes", config)
    write_retrieval_set(folder / EVALUATION / "wds_scenes_retrieval", config, known=captions)
