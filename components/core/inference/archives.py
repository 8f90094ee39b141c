"""Checks of a served model before anything in it is loaded.

Standard library only and without imports from here: a copy travels with every served model.
"""

import hashlib
import json
import re
import zipfile
from pathlib import Path

# What torch.export.save writes for a network of plain tensors. Sample inputs, pickled constants and script
# objects are not among it: torch.export.load would unpickle them.
MEMBERS = re.compile(
    r"[\w.-]+/(data/weights/(weight_\d+|[\w.-]+_weights_config\.json)"
    r"|data/constants/(tensor_\d+|[\w.-]+_constants_config\.json)"
    r"|data/sample_inputs/[\w.-]+\.pt"
    r"|models/[\w.-]+\.json|archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id)"
)

MAX_CONFIG_BYTES = 64 * 2**20  # of a list of weights, which is read whole: 300 bytes for each

FILES = re.compile(
    r"MLmodel|conda\.yaml|python_env\.yaml|requirements\.txt|served_model\.py|(serving_)?input_example\.json"
    r"|artifacts/served/(network\.pt2|serving\.json|(serving|answers)_code\.py|archives\.py)"
    r"|checkpoint/(network\.safetensors|checkpoint\.json|training\.parquet)"
)


def check_folder(folder: Path, digest: str | None = None) -> None:
    """Check the files of a version and the members of its archive against what may be there.

    Args:
        folder: The served model and its checkpoint.
        digest: What the registry says of the folder; None before it is registered.

    Raises:
        ValueError: The digest is another, or a file, a link or an archive member is not on the list.
    """
    if digest is not None and folder_digest(folder) != digest:
        raise ValueError("its files are not the ones that were registered")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or (path.is_file() and not FILES.fullmatch(name)):
            raise ValueError(f"it holds the unexpected file {name!r}")
    check_archive(folder / "artifacts" / "served" / "network.pt2")


def check_archive(path: Path) -> None:
    """Check the members of an exported graph against the list of what may be in one.

    Raises:
        ValueError: The archive holds a member, a sample input or a pickled tensor that must not be there.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                _check_member(archive, member, path.name)
    except _RefusedError:
        raise
    except Exception as error:  # damaged bytes make zipfile, its decompressors and json raise almost anything
        raise ValueError(f"{path.name} is not an exported graph: {str(error) or type(error).__name__}") from error


class _RefusedError(ValueError):
    """The reason is known already."""


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> None:
    if not MEMBERS.fullmatch(member.filename) or ".." in member.filename:
        raise _RefusedError(f"{name} holds the unexpected member {member.filename!r}")
    if "/sample_inputs/" in member.filename and member.file_size:
        raise _RefusedError(f"{name} holds sample inputs, which would be unpickled")
    if not member.filename.endswith("_config.json"):
        return
    if member.file_size > MAX_CONFIG_BYTES:
        raise _RefusedError(f"{name} holds {member.filename!r} of {member.file_size} bytes")
    for tensor, facts in json.loads(archive.read(member))["config"].items():
        if facts.get("use_pickle") is not False:
            raise _RefusedError(f"{name} holds {tensor!r} as a pickle")


def folder_digest(folder: Path) -> str:
    """The sha256 over all files below a folder, names and contents, 64 hexadecimal digits.

    Raises:
        ValueError: A link is among them; it could point anywhere.
    """
    manifest = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ValueError(f"{path.name} is a link")
        if path.is_file():
            with path.open("rb") as file:
                manifest[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
