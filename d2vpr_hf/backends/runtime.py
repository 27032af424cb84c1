"""The backend and the precision that make descriptors, as indexes record them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """A backend and the precision of its products.

    `str()` gives the form that index manifests store, such as `"torch fp32"`; [`Runtime.parse`] reads it.

    Attributes:
        backend: Name of the backend, such as `"torch"` or `"onnxruntime"`.
        precision: Number type of the network's products, such as `"fp32"` or `"int8"`.
    """

    backend: str
    precision: str

    @classmethod
    def parse(cls, text: str) -> "Runtime":
        """Read a runtime from its stored form.

        Raises:
            ValueError: If the text is not a backend and a precision, separated by a space.
        """
        words = text.split()
        if len(words) != 2:
            raise ValueError(f"A runtime is written as a backend and a precision, such as 'torch fp32'; got {text!r}.")
        return cls(*words)

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"
