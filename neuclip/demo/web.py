"""The folder of the drawn web: pictures, a URL table in which some links are broken, and the evaluation sets.

    images/000/000042.jpg   urls.parquet   evaluation/wds_scenes_{shapes,retrieval}/   demo.json

`demo.json` is written last and says which settings the folder was drawn with.
"""

import hashlib
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.demo.captions import write_caption, write_rewrite
from neuclip.demo.evaluation_sets import write_retrieval_set, write_shapes_set
from neuclip.demo.scenes import draw, encode, make_scene
from neuclip.demo.server import HOST
from neuclip.demo.settings import MARKER, WebSettings
from neuclip.foundation.errors import ConfigError
from neuclip.foundation.ids import UID_LENGTH
from neuclip.foundation.randomness import generator

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


def is_drawn(settings: WebSettings) -> bool:
    """Tell whether the folder is there and was drawn with these settings.

    Raises: ConfigError: if the folder holds something else.
    """
    folder = settings.folder
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not (folder / MARKER).is_file():
        raise ConfigError(
            f"the demo's pictures would go to {folder}, which is not empty and has no {MARKER}: no demo made it; "
            "choose another place with --root"
        )
    return (folder / MARKER).read_text(encoding="utf-8") == settings.marker()


def prepare(settings: WebSettings) -> None:
    """Draw the folder unless it is there with these settings. Files that no demo drew stay in it.

    Raises: ConfigError: as is_drawn does.
    """
    if is_drawn(settings):
        return
    folder = settings.folder
    drawn = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        _write(drawn, settings)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).write_text("being drawn", encoding="utf-8")
        for entry in drawn.iterdir():
            shutil.rmtree(folder / entry.name, ignore_errors=True)
            entry.rename(folder / entry.name)
        (folder / MARKER).write_text(settings.marker(), encoding="utf-8")
    finally:
        shutil.rmtree(drawn, ignore_errors=True)


def make_pair(number: int, settings: WebSettings) -> PairOfTable:
    """Make row `number` of the table: a pure function of the number, the seed and the picture's size."""
    defect = _defect(number, settings)
    shown = _original_of(number, settings) if defect == "duplicate" else number
    scene = make_scene(generator(settings.seed, sample_id=shown, view=_SCENE_VIEW))
    words = generator(settings.seed, sample_id=number, view=_CAPTION_VIEW)
    caption, rewrite = write_caption(scene, words), write_rewrite(scene, words)
    content: bytes | None = None
    path = f"images/{number // _ROWS_A_FOLDER:03d}/{number:06d}.jpg"
    if defect == "missing":
        path = f"missing/{number:06d}.jpg"
    elif defect == "broken_server":
        path = f"-/status/500/{number:06d}.jpg"
    elif defect == "corrupt":
        content = hashlib.shake_128(f"{settings.seed}:{number}".encode()).digest(700)
    else:
        content = encode(draw(scene, _TINY_PX if defect == "tiny" else settings.image_px))
    return PairOfTable(
        uid=hashlib.sha256(f"demo:{settings.seed}:{number}".encode()).hexdigest()[:UID_LENGTH],
        url_path=path,
        caption=scene.things[0].colour[:2] if defect == "short" else caption,
        rewrite=rewrite,
        defect=defect,
        content=content,
    )


def _defect(number: int, settings: WebSettings) -> str | None:
    draw_01 = generator(settings.seed, sample_id=number, view=_DEFECT_VIEW).random()
    below = 0.0
    for defect, share in DEFECTS.items():
        below += share
        if draw_01 < below:
            return defect
    return None


def _original_of(number: int, settings: WebSettings) -> int:
    """Return the nearest earlier row with a whole picture of its own, `number` itself if there is none."""
    for earlier in range(number - 1, -1, -1):
        if _defect(earlier, settings) in (None, "short"):
            return earlier
    return number


def _write(folder: Path, settings: WebSettings) -> None:
    rows: list[dict[str, str]] = []
    captions: set[str] = set()
    for number in range(settings.pairs):
        pair = make_pair(number, settings)
        if pair.content is not None:
            path = folder / pair.url_path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pair.content)
        url = f"http://{HOST}:{settings.port}/{pair.url_path}"
        texts = {"caption": pair.caption, "rewrite": pair.rewrite}
        rows.append({"url": url, **texts, "uid": pair.uid})
        captions.update(texts.values())
    pq.write_table(pa.Table.from_pylist(rows), folder / TABLE)
    write_shapes_set(folder / EVALUATION / "wds_scenes_shapes", settings)
    write_retrieval_set(folder / EVALUATION / "wds_scenes_retrieval", settings, known=captions)
