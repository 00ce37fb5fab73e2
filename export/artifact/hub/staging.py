"""Copy the part of an artifact that may be published: the files of its manifest, without texts of the data."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from ....errors import ArtifactError
from ..card import model_card
from ..contents import check_hashes, no_folder
from ..files import MAX_JSON_BYTES, is_folder, parse_object, read_regular
from ..manifest import MANIFEST_FILE, SETTINGS_FILE, TAKES_PAIRS, Manifest, read_manifest
from ..seal import CARD_FILE, fingerprint, verify_artifact

_TIMED_TEXT = "query"  # the measurement that is a text of the data, unless ``benchmark.query`` was given


@dataclass(frozen=True)
class Staged:
    """A verified copy of what is to be pushed.

    Attributes:
        manifest: Manifest of the copy.
        left_out: Names in the artifact's folder that the manifest does not list; they were not copied.
        lost_text: Whether the text that was timed was removed from manifest and model card.
    """

    manifest: Manifest
    left_out: list[str]
    lost_text: bool

    @property
    def names(self) -> list[str]:
        """Names of all files."""
        return sorted([*self.manifest.files, MANIFEST_FILE])


def stage(directory: Path, folder: Path) -> Staged:
    """Copy an artifact's files to an empty folder, once their hashes are verified.

    The copy is verified as well: what is pushed later is what was verified, whatever happens to the artifact meanwhile.

    Args:
        directory: The artifact.
        folder: An empty folder.

    Raises:
        ArtifactError: The artifact does not match its manifest.
    """
    if not is_folder(directory):
        raise no_folder(directory)
    manifest = read_manifest(directory)
    check_hashes(directory, manifest.files, use_cache=False)
    names = [*manifest.files, MANIFEST_FILE]
    try:
        left_out = sorted({path.name for path in directory.iterdir()} - {*names})
        for name in names:
            shutil.copyfile(directory / name, folder / name)
    except OSError as error:
        raise ArtifactError(
            f"{directory}: cannot be copied ({error.strerror or error}); free some space, or give an artifact that "
            "you can read"
        ) from error
    manifest = verify_artifact(folder)
    lost_text = _TIMED_TEXT in manifest.measurements
    return Staged(_without_text(folder, manifest) if lost_text else manifest, left_out, lost_text)


def _without_text(folder: Path, manifest: Manifest) -> Manifest:
    """Remove the text that was timed from the manifest and the model card in ``folder``."""
    measurements = {name: value for name, value in manifest.measurements.items() if name != _TIMED_TEXT}
    settings = folder / SETTINGS_FILE
    config = parse_object(read_regular(settings, MAX_JSON_BYTES)[0], settings)
    pairs = config.get(TAKES_PAIRS, False)
    try:
        card = model_card(config.get("labels") or [], manifest.made_from, measurements, takes_pairs=pairs)
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"{MANIFEST_FILE}: made_from and measurements do not fit a model card ({error!s:.60}); export the run again"
        ) from error
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    files = manifest.files | {CARD_FILE: fingerprint(folder / CARD_FILE)}
    made = replace(manifest, files=files, measurements=measurements)
    (folder / MANIFEST_FILE).write_text(made.to_json(), encoding="utf-8")
    return made
