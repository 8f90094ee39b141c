"""Pictures into classes."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from components.core.contract.task import load_task
from components.core.errors import InputError, RejectedRecord
from components.core.inference import images as pictures
from components.core.networks.network import Network
from components.core.settings import Settings
from components.core.targets.classification import Classification
from components.core.training.checkpoints import load_checkpoint, save_checkpoint
from components.tasks import image_classification

SMALL = Settings(backbone="torchvision/resnet18", weights="none", image_size=32)
CLASSES = ["bird", "food", "money"]


def picture(size: tuple[int, int] = (48, 40), seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def network() -> Network:
    return image_classification.build(SMALL, CLASSES, 0.2)


def test_it_is_found_by_name() -> None:
    """The task is its module's name."""
    assert load_task("image_classification").build is image_classification.build


def test_an_unknown_task_is_an_input_error() -> None:
    """A task that is not there is told with those that are."""
    with pytest.raises(InputError, match="image_classification"):
        load_task("juggling")


def test_a_task_whose_library_is_missing_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a group of dependencies is not installed, the error names the library and the way to it."""
    (tmp_path / "juggler").mkdir()
    (tmp_path / "juggler" / "balls.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="needs the library no_such_library.*Run in the checkout of Thawline"):
        load_task("juggler.balls")


def test_check_gives_the_size() -> None:
    """A picture that can be decoded has a width, a height and a fingerprint of three hashes."""
    facts = image_classification.check(picture((48, 40)))
    assert (facts["width"], facts["height"]) == (48, 40)
    assert len(str(facts["fingerprint"])) == 3 * 256 // 4


def test_what_is_no_picture_is_rejected() -> None:
    """Anything else is rejected with its reason."""
    with pytest.raises(RejectedRecord, match="zero bytes"):
        image_classification.check(b"")


def test_linear_head(network: Network) -> None:
    """The default head is dropout and one linear layer over the pooled features."""
    assert [type(module) for module in network.head] == [nn.Dropout, nn.Linear]
    assert network.head[-1].out_features == 3


def test_classic_head() -> None:
    """--head mlp is Linear, ReLU, Dropout, Linear, with a ReLU that leaves its input alone."""
    settings = SMALL.model_copy(update={"head": "mlp", "hidden": 512})
    head = image_classification.build(settings, CLASSES, 0.2).head
    assert [type(module) for module in head] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert (head[0].in_features, head[0].out_features, head[2].p, head[3].out_features) == (512, 512, 0.2, 3)
    assert not head[1].inplace


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_head_leaves_its_input_alone(head: str) -> None:
    """No head writes into the features, which may be kept activations."""
    network = image_classification.build(SMALL.model_copy(update={"head": head}), CLASSES, 0.2).train()
    features = torch.randn(4, 512)
    before = features.clone()
    network.head(features)
    assert torch.equal(features, before)


@pytest.mark.parametrize(
    ("resize", "mode"),
    [("auto", "squash"), ("weights", "crop"), ("crop", "crop"), ("squash", "squash"), ("pad", "pad")],
)
def test_resize_decides_how_a_picture_becomes_square(resize: str, mode: str) -> None:
    """By default all of it is kept, though these weights expect a crop, which goes by the name `weights`."""
    settings = SMALL.model_copy(update={"resize": resize})
    assert image_classification.build(settings, CLASSES, 0.2).preprocessing["mode"] == mode


@pytest.mark.parametrize("expected", ["squash", "pad"])
def test_weights_that_expect_the_whole_picture_get_it_as_they_expect(expected: str) -> None:
    """The default changes nothing for weights that were trained on whole pictures."""
    assert image_classification._mode("auto", expected) == expected


def test_a_checkpoint_keeps_its_way_of_resizing(tmp_path: Path) -> None:
    """A model that was trained on crops answers crops, whatever the default is when it is loaded."""
    earlier = image_classification.build(SMALL, CLASSES, 0.2)
    earlier.preprocessing["mode"] = "crop"
    save_checkpoint(tmp_path, earlier, SMALL, SMALL.defaults(), CLASSES, {"history": [], "thawed": 0})
    assert load_checkpoint(tmp_path)[0].preprocessing["mode"] == "crop"


def augmented(settings: Settings, network: Network, seeds: Sequence[int] = (0, 1, 2, 3)) -> Tensor:
    contents = [picture(seed=i) for i in range(len(seeds))]
    targets = torch.arange(len(seeds))
    inputs, same = image_classification.augment(contents, targets, network.preprocessing, settings, seeds)
    assert same is targets
    return inputs


@pytest.mark.parametrize("augment", ["basic", "randaugment", "trivialaugment"])
def test_augmentation_is_seeded(augment: str, network: Network) -> None:
    """Each picture depends on its own seed and on nothing else in its batch; batches fit the network."""
    settings = SMALL.model_copy(update={"augment": augment})
    one, same, other = (augmented(settings, network, seeds) for seeds in ((1, 2, 3), (1, 2, 3), (7, 2, 8)))
    assert torch.equal(one, same)
    assert [torch.equal(a, b) for a, b in zip(one, other, strict=True)] == [False, True, False]
    assert one.shape == (3, 3, 32, 32)
    assert torch.isfinite(one).all()


def test_views_show_a_picture_as_evaluation_does(network: Network) -> None:
    """A random crop of a wide picture is one of the squashed square, not a piece at one of its ends."""
    ramp = np.tile(
        np.linspace(0, 255, 90, dtype=np.uint8)[:, None], (30, 1, 3)
    )  # dark at the left, bright at the right
    assert network.preprocessing["mode"] == "squash"
    settings = SMALL.model_copy(update={"augment": "basic"})
    contents, targets = [encoded(Image.fromarray(ramp))] * 20, torch.zeros(20, dtype=torch.long)
    views, _ = image_classification.augment(contents, targets, network.preprocessing, settings, range(20))
    shown = (views.amax((2, 3)) - views.amin((2, 3))) * torch.tensor(network.preprocessing["std"])
    assert float(shown.min()) > 0.55  # of the whole ramp: the narrowest crop has 0.61 of the width


def test_a_picture_that_is_square_or_cropped_is_augmented_as_it_is(network: Network) -> None:
    """Only what evaluation squashes or pads is made square before, and a long line takes little memory."""
    square, line = Image.new("RGB", (90, 90)), Image.new("RGB", (30_000, 1))
    assert image_classification._square(square, network.preprocessing) is square
    assert image_classification._square(line, {**network.preprocessing, "mode": "crop"}) is line
    assert image_classification._square(line, network.preprocessing).size == (64, 64)


def test_augmentation_leaves_the_global_generator_alone(network: Network) -> None:
    """Drawing a batch does not move the generator that dropout draws from."""
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    settings = SMALL.model_copy(update={"augment": "basic", "cutmix": 1.0})
    image_classification.mix(augmented(settings, network), torch.tensor([0, 1, 2, 0]), settings, 3, 1)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("mixing", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0, "augment": "basic"}])
def test_mixing_makes_soft_targets(mixing: dict[str, object], network: Network) -> None:
    """Mixup and cutmix give each row a share of two classes, which the loss takes; the seed decides."""
    settings, targets = SMALL.model_copy(update=mixing), torch.tensor([0, 1, 2, 0])
    pictures = augmented(settings, network)
    inputs, soft = image_classification.mix(pictures, targets, settings, 3, 3)
    assert soft.shape == (4, 3)
    torch.testing.assert_close(soft.sum(1), torch.ones(4))
    assert torch.isfinite(Classification().loss(network(inputs), soft, 0.1, None))
    assert torch.equal(image_classification.mix(pictures, targets, settings, 3, 3)[0], inputs)
    assert not torch.equal(image_classification.mix(pictures, targets, settings, 3, 4)[0], inputs)


def test_mixup_acts_on_activations() -> None:
    """Mixup takes any tree of tensors [B, ...]; numbers that are no floats stay as they are."""
    tree = {"maps": torch.arange(12.0).view(2, 3, 2), "lengths": torch.tensor([3, 2])}
    mixed, soft = image_classification.mix(tree, torch.tensor([0, 1]), SMALL.model_copy(update={"mixup": 1.0}), 2, 0)
    share = soft[0, 0]
    torch.testing.assert_close(mixed["maps"][0], tree["maps"][0] * share + tree["maps"][1] * (1 - share))
    assert torch.equal(mixed["lengths"], tree["lengths"])


def test_without_augmentation_a_picture_is_what_is_served(network: Network) -> None:
    """Mixing alone leaves the geometry and the scale as the served model encodes them."""
    transform = image_classification._augmentation(SMALL.model_copy(update={"mixup": 0.2}), network.preprocessing)
    served = image_classification.encode([picture()], network.preprocessing)[0]
    torch.testing.assert_close(transform(pictures.decode(picture())), served, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"augment": "basic"}, True),
        ({"augment": "basic", "views": 4}, False),
        ({"mixup": 0.1}, False),
        ({"cutmix": 1.0}, True),
    ],
)
def test_augmenting_is_recognised(options: dict[str, object], *, expected: bool) -> None:
    """Activations are kept only where what they are computed from stays the same."""
    assert image_classification.augments(SMALL.model_copy(update=options)) is expected


def test_thumbnails_are_small_jpegs() -> None:
    """The report's thumbnails are at most 160 pixels wide and high, whatever the picture is."""
    [thumbnail] = image_classification.thumbnails([picture((800, 300))])
    with Image.open(io.BytesIO(thumbnail)) as small:
        assert (small.format, small.size) == ("JPEG", (160, 60))


@pytest.mark.parametrize("mixing", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_numbers_and_labels_are_mixed_too(mixing: dict[str, object], network: Network) -> None:
    """Targets that are no classes are mixed as they are, by the share that the pictures are mixed by."""
    settings = SMALL.model_copy(update=mixing)
    pictures = augmented(settings, network)
    _, soft = image_classification.mix(pictures, torch.tensor([[0.0], [1.0], [0.0], [1.0]]), settings, 1, 3)
    assert soft.shape == (4, 1)
    shares = soft[1, 0], 1 - soft[0, 0]
    assert shares[0] == pytest.approx(float(shares[1]))
    assert 0 < float(shares[0]) < 1
