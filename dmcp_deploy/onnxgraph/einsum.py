"""What an Einsum multiplies, pair by pair from left to right as torch does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

ELLIPSIS = "."


@dataclass(frozen=True)
class Einsum:
    """An equation, its axes told by letters; "." stands for all that "..." covers.

    Attributes:
        terms: The letters of each factor, in order.
        output: The letters of the result.
    """

    terms: tuple[str, ...]
    output: str

    def products(self, activations: Sequence[bool]) -> Iterator[frozenset[str]]:
        """Yields the letters that each product with a stored factor runs over.

        Where nothing is summed, factors are scaled and not multiplied as a layer does.

        Args:
            activations: Of every factor whether it follows from the images.
        """
        left, is_activation = frozenset(self.terms[0]), activations[0]
        for place, term in enumerate(self.terms[1:], start=1):
            needed = frozenset("".join((self.output, *self.terms[place + 1 :])))
            right = frozenset(term)
            # What one factor has alone, and nothing else needs, is summed before.
            every = (left & right) | ((left | right) & needed)
            summed = (left & right) - needed
            if summed and is_activation != activations[place]:
                yield every
            left, is_activation = every - summed, is_activation or activations[place]

    def sizes(self, shapes: Sequence[Sequence[int]]) -> Mapping[str, int]:
        """Returns the size of each letter, given the factors' shapes."""
        sizes: dict[str, int] = {}
        for term, shape in zip(self.terms, shapes, strict=True):
            before, dots, after = term.partition(ELLIPSIS)
            covered = shape[len(before) : len(shape) - len(after)]
            known = [*zip(before, shape, strict=False)]
            known += [*zip(after[::-1], reversed(shape), strict=False)]
            for letter, size in [*known, *([(dots, prod(covered))] if dots else [])]:
                sizes[letter] = max(size, sizes.get(letter, 1))
        return sizes


def parse_einsum(equation: str) -> Einsum:
    """Returns what an equation such as "nchw,oc->nohw" says; without "->" its result follows."""
    plain = equation.replace(" ", "").replace("...", ELLIPSIS)
    left, arrow, right = plain.partition("->")
    terms = tuple(left.split(","))
    if not arrow:
        letters = sorted(set(left) - {",", ELLIPSIS})
        dots = ELLIPSIS if ELLIPSIS in left else ""
        right = dots + "".join(letter for letter in letters if left.count(letter) == 1)
    return Einsum(terms, right)
