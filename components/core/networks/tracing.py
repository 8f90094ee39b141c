"""Any image network as ordered stages: its forward pass is traced, and the trace is cut.

`split` cuts where one tensor is all that is needed above, `split_maps` also where several are, as below a pyramid.

Only the outermost code of a network is traced (torch.fx, https://arxiv.org/abs/2112.08429); blocks stay the library's
own modules. So the stages run the operations of the original one by one, and what a library does between its blocks
(position embeddings, flattening, pooling) needs no table of architectures. Every split is checked by running it.
"""

import operator
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from components.core.errors import InputError
from components.core.networks.network import Pytree

Stages = tuple[tuple[str, nn.Module], ...]

# Containers of stages, as torchvision and timm name them: their children become stages. Any other module stays whole,
# so a name that is missing here makes coarser stages, never wrong ones.
_OPEN = frozenset(
    (
        *("features", "blocks", "stages", "layers", "levels", "trunk_output", "encoder", "network", "transformers"),
        *("body", "blocks_token_only", "cls_attn_blocks", "post_network", "classifier", "heads"),
    )
)
_PREFIX = "network."  # of the traced names, as `_Root` calls it
_PURE = {operator.iadd: operator.add, operator.imul: operator.mul, operator.isub: operator.sub}


class _Root(nn.Module):
    """Calls a network with one argument, so that optional arguments keep their defaults while tracing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Pytree:
        return self.network(inputs)


class _Tracer(fx.Tracer):
    """Enters a network and its open containers, nothing else."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inner = module_qualified_name.split(".")[1:]
        return not all(name in _OPEN for name in inner) or (bool(inner) and not any(True for _ in m.children()))


def split(network: nn.Module, name: str, size: int, *, check: bool = True) -> tuple[Stages, int]:
    """Cut a network without a classifier into stages; the last one returns its features.

    Args:
        network: From images[B, 3, size, size] to features[B, F]. The stages share its modules, which are put into
            evaluation mode and no longer work in place.
        name: What error messages call it.
        size: Side of the images in pixels.
        check: Whether to compare the stages with the whole; a network that is rebuilt was checked when it was built.

    Returns:
        The stages, each under the name of its first module, and F. Within a stage, parameters keep their names.

    Raises:
        InputError: The network can't be traced or cut, or does not take images of this size.
    """
    traced = _traced(network, name)
    dependent = _depends_on_input(traced.graph)
    stages = _cut(traced, _starts(traced, lambda node: len(_live(node, dependent)) == 1), name, network)
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    if not check:
        return stages, int(_run(stages, name, image, several=False).shape[1])
    return stages, _features(network, stages, name, image)


def split_maps(network: nn.Module, name: str, images: Tensor) -> Stages:
    """Cut a network that gives several maps into stages; between two of them flow as many tensors as are needed above.

    Args:
        network: From images[B, 3, H, W] to nested tuples, lists and dicts of tensors, batch first. As for `split`, the
            stages share its modules.
        name: What error messages call it.
        images: An example, of at least two rows.

    Returns:
        The stages, each under the name of its first module. One takes a tensor, or a tuple of several in the order in
        which they are computed.

    Raises:
        InputError: The network can't be traced or cut.
    """
    traced = _traced(network, name)
    dependent, batched = _depends_on_input(traced.graph), _batched(traced, images)
    stages = _cut(traced, _starts(traced, lambda node: batched.issuperset(_live(node, dependent))), name, network)
    found, expected = _run(stages, name, images), _whole(network, images)
    if not _equal(found, expected):
        raise _refusal(name, "the stages give other tensors than the whole")
    return stages


def _traced(network: nn.Module, name: str) -> fx.GraphModule:
    """The outermost code of a network, which writes into no input."""
    network.eval()
    for module in network.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010 - an attribute of some modules, unknown to their type
    try:
        traced = fx.GraphModule(root := _Root(network), _Tracer().trace(root))
    except Exception as error:  # the traced code may raise anything on a proxy
        raise _refusal(name, f"tracing it ends in {type(error).__name__}") from error
    traced.graph.eliminate_dead_code()
    _drop_tail(traced)
    _make_pure(traced.graph)
    return traced


def _cut(traced: fx.GraphModule, starts: list[fx.Node], name: str, network: nn.Module) -> Stages:
    if len(starts) < 2:  # noqa: PLR2004 - one stage is no split
        raise _refusal(name, "nothing in it is an ordered list of blocks")
    stages = tuple(
        (str(first.target).removeprefix(_PREFIX), _stage(traced, first, last, set(network.state_dict())))
        for first, last in pairwise([*starts, None])
        if first is not None
    )
    _refuse_shared(stages, name)
    return stages


def _refusal(name: str, reason: str) -> InputError:
    return InputError(f"{name} can't be split into stages: {reason}.", "Choose another --backbone.")


def _drop_tail(traced: fx.GraphModule) -> None:
    """Return what the removed classifier received: dropout belongs to the new head."""
    output = next(reversed(traced.graph.nodes))
    tail = output.args[0]
    while (
        isinstance(tail, fx.Node)
        and tail.op == "call_module"
        and isinstance(traced.get_submodule(str(tail.target)), nn.Identity | nn.Dropout)
    ):
        tail = tail.args[0]
    output.args = (tail,)
    traced.graph.eliminate_dead_code()


def _make_pure(graph: fx.Graph) -> None:
    """No operation between the blocks writes into its input: a stage's input may be a stored activation."""
    for node in graph.nodes:
        if node.kwargs.get("inplace"):
            node.update_kwarg("inplace", False)
        if node.op == "call_function":
            node.target = _PURE.get(node.target, node.target)
        elif node.op == "call_method" and node.target.endswith("_") and not node.target.endswith("__"):
            node.target = node.target.removesuffix("_")


def _depends_on_input(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that change with the picture; all others (parameters, tables) are copied to where they are used."""
    dependent: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op in {"placeholder", "output"} or dependent.intersection(node.all_input_nodes):
            dependent.add(node)
    return dependent


def _live(before: fx.Node, dependent: set[fx.Node]) -> list[fx.Node]:
    """Values that cross a cut just before a node, in the order of the code."""
    earlier: dict[fx.Node, None] = {}
    for node in before.graph.nodes:
        if node is before:
            break
        earlier[node] = None
    return [node for node in earlier if node in dependent and any(user not in earlier for user in node.users)]


def _batched(traced: fx.GraphModule, images: Tensor) -> set[fx.Node]:
    """Nodes whose value is a tensor with a row for each image: what may lie at a thaw line."""
    found: set[fx.Node] = set()

    class Noted(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - whatever the code computes
            value = super().run_node(n)
            if isinstance(value, Tensor) and value.shape[:1] == images.shape[:1]:
                found.add(n)
            return value

    with torch.no_grad():
        Noted(traced).run(images)
    return found


def _starts(traced: fx.GraphModule, may_cut: Callable[[fx.Node], bool]) -> list[fx.Node]:
    """The first node of each stage.

    A block starts a stage; a single convolution only after a block or a pooling (VGG: one stage a resolution); norms,
    activations and pooling belong to the stage before them. A cut lies only where `may_cut` says so.
    """
    starts: list[fx.Node] = []
    closed = True
    for node in traced.graph.nodes:
        if node.op != "call_module":
            closed = closed or "pool" in str(node.target)
            continue
        module = traced.get_submodule(node.target)
        has_weights = any(parameter.ndim > 1 for parameter in module.parameters())
        block = any(True for _ in module.children())
        if not has_weights:
            closed = closed or "Pool" in type(module).__name__
        elif (block or closed or isinstance(module, nn.Linear)) and (not starts or may_cut(node)):
            starts.append(node)
            closed = block
    return starts


def _stage(traced: fx.GraphModule, first: fx.Node, last: fx.Node | None, persistent: set[str]) -> fx.GraphModule:
    """The nodes from `first` up to `last` (None: the end) as a module; the first stage gets what precedes it too."""
    dependent = _depends_on_input(traced.graph)
    nodes = list(traced.graph.nodes)
    opening = not any(node.op == "call_module" for node in nodes[: nodes.index(first)])
    begin = 1 if opening else nodes.index(first)
    entering = [nodes[0]] if opening else _live(first, dependent)
    leaving = nodes[-1].args[0] if last is None else tuple(_live(last, dependent))
    if last is not None and len(leaving) == 1:
        (leaving,) = leaving
    end = len(nodes) - 1 if last is None else nodes.index(last)

    graph = fx.Graph()
    inputs = graph.placeholder("inputs")
    copies = {entering[0]: inputs}
    if len(entering) > 1:
        copies = {node: graph.call_function(operator.getitem, (inputs, i)) for i, node in enumerate(entering)}
    needed = _needed([node for node in nodes[begin:end] if node in dependent], dependent)
    attributes: dict[str, object] = {}
    for node in nodes:
        if node in needed and node not in copies:
            copies[node] = copy = graph.node_copy(node, copies.__getitem__)
            if node.op in {"call_module", "get_attr"}:
                copy.target = str(node.target).removeprefix(_PREFIX)
                attributes[copy.target] = operator.attrgetter(str(node.target))(traced)
    graph.output(fx.node.map_arg(leaving, copies.__getitem__))
    stage = fx.GraphModule(attributes, graph)
    for name, buffer in list(stage.named_buffers(remove_duplicate=False)):
        if name not in persistent:  # fx registers every tensor that the code reads as a persistent buffer
            owner, _, key = name.rpartition(".")
            stage.get_submodule(owner).register_buffer(key, buffer, persistent=False)
    return stage.eval()


def _needed(nodes: Iterable[fx.Node], dependent: set[fx.Node]) -> set[fx.Node]:
    """The nodes and all that they read apart from what depends on the input."""
    needed, waiting = set(), list(nodes)
    while waiting:
        node = waiting.pop()
        needed.add(node)
        waiting.extend(source for source in node.all_input_nodes if source not in dependent and source not in needed)
    return needed


def _refuse_shared(stages: Stages, name: str) -> None:
    """A parameter of two stages would train through the upper one and change the frozen lower one."""
    seen: set[int] = set()
    for _, stage in stages:
        own = {id(parameter) for parameter in stage.parameters()}
        if seen & own:
            raise _refusal(name, "two of its blocks share a parameter")
        seen |= own


def _features(network: nn.Module, stages: Stages, name: str, image: Tensor) -> int:
    """Run the network and its stages on one random image; return the number of features."""
    try:
        expected = _whole(network, image)
    except Exception as error:  # each library refuses a size in its own way
        raise InputError(
            f"{name} can't take images of {image.shape[2]} x {image.shape[3]} pixels ({_first_line(error)}).",
            "Leave out --image-size, or use a multiple of 32 (of 14 for a network with patches of 14).",
        ) from error
    value = _run(stages, name, image, several=False)
    if value.ndim != 2 or not torch.equal(value, expected):  # noqa: PLR2004 - batch and features
        raise _refusal(name, f"the stages give {list(value.shape)}, not the features of the whole")
    return int(value.shape[1])


def _whole(network: nn.Module, images: Tensor) -> Pytree:
    with torch.no_grad():
        return network(images)


def _run(stages: Stages, name: str, images: Tensor, *, several: bool = True) -> Pytree:
    """Run the stages, one after another.

    Raises:
        InputError: One returns something else than tensors, or than one where not several are allowed, or overwrites
            its input.
    """
    value: Pytree = images
    for stage_name, stage in stages:
        leaves = tree_leaves(value)
        versions = [leaf._version for leaf in leaves]  # noqa: SLF001 - the only trace that an in-place write leaves
        with torch.no_grad():
            value = stage(value)
        if not several and not isinstance(value, Tensor):
            raise _refusal(name, f"{stage_name} returns more than one tensor")
        if not all(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            raise _refusal(name, f"{stage_name} returns something else than tensors")
        if [leaf._version for leaf in leaves] != versions:  # noqa: SLF001 - as above
            raise _refusal(name, f"{stage_name} overwrites its input")
    return value


def _equal(found: Pytree, expected: Pytree) -> bool:
    ours, theirs = tree_leaves(found), tree_leaves(expected)
    return len(ours) == len(theirs) and all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
