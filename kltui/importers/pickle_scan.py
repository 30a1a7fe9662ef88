"""Checks a pickle's instructions before it is loaded: stated lengths must fit the file, and nesting is bounded.

CPython's unpickler trusts a pickle: it allocates any stated length, and all memo places up to a stated one, and it hashes
a key of nested tuples by recursion in C, which can end the process.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_DEPTH = 64
MAX_CONTAINERS = 4_000_000  # the largest released file has some thousands, and four for each array
MEMO_GAP = 1024  # every pickler numbers its memo places consecutively
MAX_INTEGER_BYTES = 64
_FLOATS = re.compile(rb"(?:G.{8})+", re.DOTALL)  # a list of numbers consists of these

_FIXED = {b"N": 0, b"\x88": 0, b"\x89": 0, b"K": 1, b"M": 2, b"J": 4, b"G": 8}
_PREFIXED = {
    b"U": 1, b"C": 1, b"\x8c": 1, b"\x8a": 1, b"T": 4, b"B": 4, b"X": 4, b"\x8b": 4, b"\x8e": 8, b"\x8d": 8, b"\x96": 8,
}  # fmt: skip
_LINES = {b"I": 1, b"L": 1, b"F": 1, b"S": 1, b"V": 1, b"c": 2}
_SKIPPED = {b"\x80": 1, b"\x98": 0}
_INTEGERS = (b"\x8a", b"\x8b")


def scan(data: bytes) -> None:
    """Raises ValueError unless all stated lengths fit `data`, and depth and number of containers are within bounds."""
    _Scan(data).run()


class _Scan:
    """Interprets the instructions on a stack of nesting depths: 0 for a plain value, 1 + the maximum of its items for a container."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._containers = data, 0, 0
        self._stack: list[int] = []
        self._marks: list[int] = []
        self._memo: dict[int, int] = {}
        steps: dict[bytes, Callable[[], None]] = {
            b"(": lambda: self._marks.append(len(self._stack)),
            b"0": self._pop_one, b"1": lambda: self._pushed(self._popped_to_mark(), push=False),
            b"2": lambda: self._stack.append(self._stack[-1]),
            b"R": lambda: self._called(2), b"\x81": lambda: self._called(2), b"\x92": lambda: self._called(3),
            b"i": self._instance, b"o": lambda: self._pushed(self._popped_to_mark()),
            b"\x93": lambda: self._called(2), b"b": lambda: self._filled([self._stack.pop()], deeper=0),
            b"a": lambda: self._filled([self._stack.pop()]),
            b"s": lambda: self._filled([self._stack.pop(), self._stack.pop()]),
            b"q": lambda: self._put(self._number(1)), b"r": lambda: self._put(self._number(4)),
            b"p": lambda: self._put(int(self._line())), b"\x94": lambda: self._put(len(self._memo)),
            b"h": lambda: self._get(self._number(1)), b"j": lambda: self._get(self._number(4)),
            b"g": lambda: self._get(int(self._line())), b"\x95": self._frame,
        }  # fmt: skip
        for op in (b"]", b"}", b")", b"\x8f"):
            steps[op] = lambda: self._made([])
        for op in (b"l", b"d", b"t", b"\x91"):
            steps[op] = lambda: self._made(self._popped_to_mark())
        for n, op in enumerate((b"\x85", b"\x86", b"\x87"), 1):
            steps[op] = lambda n=n: self._made([self._stack.pop() for _ in range(n)])  # type: ignore[misc]
        for op in (b"e", b"u", b"\x90"):
            steps[op] = lambda: self._filled(self._popped_to_mark())
        self._steps = steps

    def run(self) -> None:
        """Checks all instructions up to the one that ends the pickle. Raises ValueError."""
        try:
            while (op := self._take(1)) != b".":
                if op in _FIXED:
                    self._plain(op)
                elif op in _PREFIXED:
                    self._sized(op)
                elif op in _LINES:
                    for _ in range(_LINES[op]):
                        self._line()
                    self._stack.append(0)
                elif op in _SKIPPED:
                    self._take(_SKIPPED[op])
                elif op in self._steps:
                    self._steps[op]()
                else:
                    raise ValueError(f"the instruction {op!r} at byte {self._at - 1}")
        except IndexError:
            raise ValueError("it takes more from its stack than there is") from None

    def _take(self, n: int) -> bytes:
        at = self._at
        self._at += n
        if self._at > len(self._data):
            raise ValueError(f"it is cut, or claims {n:,} bytes where {len(self._data) - at:,} are left")
        return self._data[at : self._at]

    def _number(self, n: int) -> int:
        return int.from_bytes(self._take(n), "little")

    def _line(self) -> bytes:
        end = self._data.find(b"\n", self._at)
        if end < 0:
            raise ValueError("a line without an end")
        line = self._data[self._at : end]
        self._at = end + 1
        return line

    def _plain(self, op: bytes) -> None:
        if op == b"G" and (run := _FLOATS.match(self._data, self._at - 1)):
            self._stack += [0] * ((run.end() - run.start()) // 9)
            self._at = run.end()
            return
        self._take(_FIXED[op])
        self._stack.append(0)

    def _sized(self, op: bytes) -> None:
        n = self._number(_PREFIXED[op])
        if op in _INTEGERS and n > MAX_INTEGER_BYTES:
            raise ValueError(f"an integer of {n:,} bytes")
        if n > len(self._data) - self._at:
            raise ValueError(f"it claims {n:,} bytes where {len(self._data) - self._at:,} are left")
        self._at += n
        self._stack.append(0)

    def _frame(self) -> None:
        n = self._number(8)
        if n > len(self._data) - self._at:
            raise ValueError(f"it claims {n:,} bytes where {len(self._data) - self._at:,} are left")

    def _pop_one(self) -> None:
        # As in the unpickler, a mark on top of the stack is removed instead of a value.
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _popped_to_mark(self) -> list[int]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _made(self, items: list[int]) -> None:
        self._containers += 1
        if self._containers > MAX_CONTAINERS:
            raise ValueError(f"more than {MAX_CONTAINERS:,} containers")
        self._pushed([1 + depth for depth in items] or [1])

    def _pushed(self, items: list[int], push: bool = True) -> None:
        if push:
            self._stack.append(self._bounded(max(items, default=0)))

    def _filled(self, items: list[int], deeper: int = 1) -> None:
        if items:
            self._stack[-1] = self._bounded(max(self._stack[-1], deeper + max(items)))
        else:
            self._stack[-1]

    def _called(self, n: int) -> None:
        self._pushed([self._stack.pop() for _ in range(n)])

    def _instance(self) -> None:
        self._line()
        self._line()
        self._pushed(self._popped_to_mark())

    def _bounded(self, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise ValueError("containers nested too deep")
        return depth

    def _put(self, place: int) -> None:
        if not 0 <= place <= len(self._memo) + MEMO_GAP:
            raise ValueError(f"it remembers something at place {place:,} of {len(self._memo):,}")
        self._memo[place] = self._stack[-1]

    def _get(self, place: int) -> None:
        if place not in self._memo:
            raise ValueError(f"it recalls place {place:,}, where nothing is")
        self._stack.append(self._memo[place])
