"""Serving code of the toy task: stands alone, as every serving code does."""


def encode(contents, preprocessing):
    """Points [B, 2]."""
    import torch

    points = [[float(part) for part in content.decode().split(",")] for content in contents]
    return torch.tensor(points) * preprocessing["scale"]


def answers(outputs, serving):
    """A label and the probabilities for each row."""
    rows = (outputs / serving["temperature"]).softmax(-1).tolist()
    classes = serving["classes"]
    return [
        {"label": classes[max(range(len(row)), key=row.__getitem__)], "probabilities": dict(zip(classes, row))}
        for row in rows
    ]
