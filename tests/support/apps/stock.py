"""Errors of the shop, in a separate module: an application is rarely one file."""


class OutOfStock(Exception):
    """An application's own error."""

    def __init__(self, fruit: str | None, wanted: int) -> None:
        super().__init__(fruit, wanted)
        self.fruit = fruit
        self.wanted = wanted

    def __str__(self) -> str:
        return f"{self.wanted} {self.fruit} wanted"
