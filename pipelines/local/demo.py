"""The demo's data: real photos out of a Debian package, which is read without being installed.

`python -m pipelines.local.demo FOLDER` fills FOLDER/<class>/*.png from tuxpaint-stamps-default (GPL-2, 161 MB): 312
photos in 8 classes. Drawings and mirrored copies are left out: a copy in another split would leak.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from components.core.errors import InputError

PACKAGE = "tuxpaint-stamps-default"
CLASSES = {
    "bird": ["animals/birds"],
    "food": ["food"],
    "household": ["household", "hobbies"],
    "mammal": ["animals/mammals", "animals/marsupials"],
    "money": ["symbols/money"],
    "plant": ["plants"],
    "sea_or_insect": ["animals/fish", "animals/insects", "animals/shellfish"],
    "vehicle": ["vehicles", "military/vehicles"],
}


def fetch_demo(target: Path) -> int:
    """Fill `target` with a folder per class, unless it is there; return the number of photos.

    Raises:
        InputError: The package can't be fetched.
    """
    if not target.exists():
        with tempfile.TemporaryDirectory(prefix="thawline-demo-") as folder:
            stamps = extract(PACKAGE, Path(folder)) / "usr/share/tuxpaint/stamps"
            part = target.with_name(f".{target.name}.part")  # complete or absent, also after a kill
            shutil.rmtree(part, ignore_errors=True)
            for name, sources in CLASSES.items():
                (part / name).mkdir(parents=True)
                for photo in (p for source in sources for p in sorted((stamps / source).rglob("*.png"))):
                    relative = photo.relative_to(stamps)
                    if "cartoon" not in relative.parts and not photo.stem.endswith("_mirror"):
                        shutil.copy(photo, part / name / "-".join(relative.parts))
            part.replace(target)
    return len(list(target.glob("*/*.png")))


def extract(package: str, folder: Path) -> Path:
    """Fetch a Debian package into `folder` without installing it; return the folder of its files.

    Raises:
        InputError: It can't be fetched.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise InputError(
            f"The data is in the Debian package {package}, but there is no apt-get here.",
            "Run on Debian or Ubuntu, or point `thawline run` to a folder of your own.",
        )
    folder.chmod(0o755)
    fetch = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package]
    if _fails(fetch, folder):
        _fails(["apt-get", "update", "-qq"], folder)
        if reason := _fails(fetch, folder):
            raise InputError(
                f"The Debian package {package} could not be fetched ({reason}).",
                "Run `apt-get update` as root and try again, or point `thawline run` to a folder of your own.",
            )
    archive = next(folder.glob(f"{package}_*.deb"))
    subprocess.run([shutil.which("dpkg-deb") or "", "-x", str(archive), str(folder / "x")], check=True)
    return folder / "x"


def _fails(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else ""


if __name__ == "__main__":
    try:
        print(f"{fetch_demo(Path(sys.argv[1]))} photos in {sys.argv[1]}", file=sys.stderr)  # noqa: T201 - its result
    except InputError as error:
        sys.exit(f"{error}")
