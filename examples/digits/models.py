"""A one-layer network for the digits: PyTorch if installed (with CUDA if available), otherwise
scikit-learn.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

SEED = 7
CLASSES = np.arange(10)
#: Images per step of the optimizer.
BATCH = 64

Images = np.ndarray[Any, np.dtype[np.float32]]
Labels = np.ndarray[Any, np.dtype[np.int64]]


class Network(Protocol):
    """The interface of a network for the tasks."""

    device: str

    def epoch(self, images: Images, labels: Labels) -> None:
        """Train one epoch on the images (n × 64, from 0 to 1)."""
        ...

    def accuracy(self, images: Images, labels: Labels) -> float:
        """Return the share of correctly read images."""
        ...


def digits() -> tuple[Images, Labels]:
    """Return the 1797 images (8×8, as rows of 64 numbers from 0 to 1) and their labels."""
    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target.astype(np.int64)


def split(images: Images, labels: Labels) -> tuple[Images, Images, Labels, Labels]:
    """Return training images, test images (a quarter), training labels, test labels; the split is
    deterministic.
    """
    parts: tuple[Images, Images, Labels, Labels] = train_test_split(
        images, labels, test_size=0.25, random_state=SEED, stratify=labels
    )
    return parts


def network(hidden: int, rate: float) -> Network:
    """Make a network with ``hidden`` neurons that learns at ``rate``."""
    return TorchNetwork(hidden, rate) if find_spec("torch") else SklearnNetwork(hidden, rate)


class SklearnNetwork:
    """A network on the CPU."""

    device = "cpu"

    def __init__(self, hidden: int, rate: float) -> None:
        self._model = MLPClassifier(
            (hidden,), learning_rate_init=rate, batch_size=BATCH, random_state=SEED
        )

    def epoch(self, images: Images, labels: Labels) -> None:
        """See :class:`Network`."""
        self._model.partial_fit(images, labels, classes=CLASSES)

    def accuracy(self, images: Images, labels: Labels) -> float:
        """See :class:`Network`."""
        return float(self._model.score(images, labels))


class TorchNetwork:
    """A network on the assigned GPU, or on the CPU."""

    def __init__(self, hidden: int, rate: float) -> None:
        import torch

        torch.manual_seed(SEED)
        # More threads would slow down this small network, and parallel jobs would fight for cores.
        torch.set_num_threads(1)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._torch = torch
        layers = (
            torch.nn.Linear(64, hidden),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden, len(CLASSES)),
        )
        self._model = torch.nn.Sequential(*layers).to(self.device)
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=rate)

    def epoch(self, images: Images, labels: Labels) -> None:
        """See :class:`Network`."""
        x, y = (self._torch.from_numpy(each).to(self.device) for each in (images, labels))
        for batch in self._torch.randperm(len(x)).to(self.device).split(BATCH):
            self._optimizer.zero_grad()
            self._torch.nn.functional.cross_entropy(self._model(x[batch]), y[batch]).backward()
            self._optimizer.step()

    def accuracy(self, images: Images, labels: Labels) -> float:
        """See :class:`Network`."""
        with self._torch.no_grad():
            read = (
                self._model(self._torch.from_numpy(images).to(self.device)).argmax(1).cpu().numpy()
            )
        return float((read == labels).mean())
