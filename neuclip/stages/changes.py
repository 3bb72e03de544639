"""Whether a stage is done, and if not, what has changed since the last time."""

from collections.abc import Iterator
from typing import Any

from neuclip.stages.manifest import Manifest, committed_manifests, is_committed, read_manifest
from neuclip.stages.workspace import StageIdentity
from neuclip.storage.files import list_files
from neuclip.storage.uris import join


def state_of(identity: StageIdentity) -> tuple[str, str]:
    """Return done, partial (begun and not finished) or missing, and why."""
    if is_committed(identity.uri):
        manifest = read_manifest(identity.uri)
        return "done", f"committed {manifest.started_at}: {manifest.ledger.describe()}"
    begun = "begun and not finished; " if list_files(identity.uri) else ""
    earlier = committed_manifests(join(identity.root, identity.stage))
    changes = _changes(earlier[0], identity) if earlier else "never done at this root"
    return ("partial" if begun else "missing"), begun + changes


def _changes(earlier: Manifest, identity: StageIdentity) -> str:
    """Say what differs between the last committed run of a stage and this one."""
    changes = [f"stage version {earlier.stage_version} -> {identity.stage_version}"] * (
        earlier.stage_version != identity.stage_version
    )
    changes += [
        f"{identity.stage}.{name}: {was} -> {now}"
        for name, was, now in _differences(earlier.section, identity.section)
    ]
    inputs = [
        f"{name} ({_how(earlier.inputs.get(name), identity.inputs.get(name))})"
        for name in {**earlier.inputs, **identity.inputs}
        if earlier.inputs.get(name) != identity.inputs.get(name)
    ]
    changes += [f"other input: {', '.join(inputs)}"] * bool(inputs)
    return "; ".join(changes) or "its record is gone"


def _how(was: str | None, now: str | None) -> str:
    return "new" if was is None else "gone" if now is None else "changed"


def _differences(
    was: dict[str, Any], now: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for name in {**was, **now}:
        old, new = was.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif isinstance(old, list) and isinstance(new, list):
            yield from _differences(_labelled(old), _labelled(new), f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name}", old, new


def _labelled(items: list[Any]) -> dict[str, Any]:
    """Return a list's items by the name or kind they have, else by their place."""
    return {
        str(item.get("name") or item.get("kind") or place)
        if isinstance(item, dict)
        else str(place): item
        for place, item in enumerate(items)
    }
