"""Find the parts of a record that an answer rests on: cover each part, and ask the model again.

The method is occlusion (Zeiler and Fergus 2014); it needs nothing of the network, so it works for every version.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.core.errors import InputError
from components.core.inference import images
from components.core.registry.serving import CHUNK, answer_some

GRID = 12  # cells of a picture's side
WINDOW = 3  # cells of the side of what is covered at a time
SIDE = 512  # pixels of the longer side of the result
KINDS = {"image": "pictures", "sound": "sounds", "text": "texts"}  # by the name of a model's input
HOT, COLD = (220, 40, 20), (30, 80, 220)  # where covering lowers the figure, and where it raises it
Heat = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """The explained figure: a label's probability, or the number if there are no labels."""

    label: str
    value: float

    def of(self, answer: Mapping[str, Any]) -> float:
        """Return the figure in another answer."""
        return float(answer["probabilities"][self.label] if self.label else answer["number"])


def picture(served: Any, content: bytes, label: str = "") -> tuple[Figure, Heat]:  # noqa: ANN401 - mlflow publishes no types
    """Return what is explained of a picture, and by how much covering each cell lowers it, [GRID, GRID].

    Args:
        served: The model.
        content: The encoded picture.
        label: Whose probability is explained; empty: the highest.

    Raises:
        InputError: The model takes no pictures, it is no picture, or its answer has neither that label nor a number.
    """
    _check_takes(served, "image")
    figure = _figure(_answers(served, [content])[0], label)
    try:
        whole = images.decode(content)
    except ValueError as error:
        raise InputError(f"It can't be explained: {error}.", "Use a picture, or --text.") from error
    whole.thumbnail((SIDE, SIDE))
    windows = [(x, y) for y in range(1 - WINDOW, GRID) for x in range(1 - WINDOW, GRID)]
    base = figure.of(_answers(served, [_png(whole)])[0])
    total, count = np.zeros((GRID, GRID)), np.zeros((GRID, GRID))
    for start in range(0, len(windows), CHUNK):
        some = windows[start : start + CHUNK]
        for (x, y), answer in zip(some, _answers(served, [_covered(whole, *place) for place in some]), strict=True):
            cells = np.s_[max(0, y) : y + WINDOW, max(0, x) : x + WINDOW]
            total[cells] += base - figure.of(answer)
            count[cells] += 1
    return figure, total / count


def words(served: Any, text: str, label: str = "") -> tuple[Figure, list[tuple[str, float]]]:  # noqa: ANN401 - as above
    """Return what is explained of a text, and by how much leaving out each word lowers it.

    Raises:
        InputError: The model takes no texts, it has one word only, or its answer has neither that label nor a number.
    """
    _check_takes(served, "text")
    figure, parts = _figure(_answers(served, [text.encode()])[0], label), text.split()
    if len(parts) == 1:
        raise InputError("A text of one word can't be explained.", "Use a longer one.")
    shorter = [" ".join(parts[:i] + parts[i + 1 :]).encode() for i in range(len(parts))]
    answers = [one for some in _chunks(shorter) for one in _answers(served, some)]
    return figure, [(word, figure.value - figure.of(answer)) for word, answer in zip(parts, answers, strict=True)]


def drawn(content: bytes, heat: Heat) -> bytes:
    """Return a picture and the same with its heat, as PNG: red carries the answer, blue speaks against it."""
    whole = images.decode(content)
    whole.thumbnail((SIDE, SIDE))
    strength = np.abs(heat) / max(float(np.abs(heat).max()), 1e-12)
    colors = np.where(heat[..., None] >= 0, HOT, COLD).astype(np.uint8)
    tint = Image.fromarray(colors).resize(whole.size, Image.Resampling.NEAREST)
    mask = Image.fromarray((strength * 170).astype(np.uint8)).resize(whole.size, Image.Resampling.BICUBIC)
    gray = whole.convert("L").convert("RGB")
    both = Image.new("RGB", (2 * whole.width, whole.height))
    both.paste(whole, (0, 0))
    both.paste(Image.composite(tint, gray, mask), (whole.width, 0))
    return _png(both)


def _check_takes(served: Any, wanted: str) -> None:  # noqa: ANN401 - as above
    own = served.metadata.get_input_schema().input_names()[0]
    if own in KINDS and own != wanted:  # the input of another task may have any name
        hint = {"image": "Use the path of a picture.", "text": "Use --text."}.get(own, "These can't be explained.")
        raise InputError(f"The model takes {KINDS[own]}, not {KINDS[wanted]}.", hint)


def _figure(answer: Mapping[str, Any], label: str) -> Figure:
    if "probabilities" in answer:
        found = answer["probabilities"]
        if label and label not in found:
            raise InputError(f"There is no label {label!r}.", f"The labels are {', '.join(found)}.")
        label = label or max(found, key=found.__getitem__)
        return Figure(label, found[label])
    if "number" in answer:
        return Figure("", answer["number"])
    raise InputError("The answers of this model can't be explained.", "Only labels and numbers can.")


def _answers(served: Any, contents: Sequence[bytes]) -> list[dict[str, Any]]:  # noqa: ANN401 - as above
    found = answer_some(served, served.metadata.get_input_schema().input_names()[0], contents)
    if bad := [one for one in found if isinstance(one, str)]:
        raise InputError(f"It can't be predicted: {bad[0]}.", "Use another record.")
    return [one for one in found if isinstance(one, dict)]


def _chunks(contents: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    yield from (contents[start : start + CHUNK] for start in range(0, len(contents), CHUNK))


def _covered(whole: Image.Image, x: int, y: int) -> bytes:
    """The picture with a window of its mean color."""
    edges = [round(cell * whole.width / GRID) for cell in (x, x + WINDOW)]
    rows = [round(cell * whole.height / GRID) for cell in (y, y + WINDOW)]
    mean = np.asarray(whole).mean((0, 1)).round().astype(int)
    covered = whole.copy()
    covered.paste((int(mean[0]), int(mean[1]), int(mean[2])), (max(0, edges[0]), max(0, rows[0]), edges[1], rows[1]))
    return _png(covered)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
