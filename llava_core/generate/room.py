"""Counts the tokens that requests take in memory while they run in step, padding included."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Prefixes that are held once, and rows of what each request has besides."""

    num_prefixes: int = 0
    longest_prefix: int = 0
    num_rows: int = 0
    longest_row: int = 0

    @property
    def num_tokens(self) -> int:
        """All that is held."""
        return self.num_prefixes * self.longest_prefix + self.num_rows * self.longest_row

    def with_prefix(self, length: int) -> "Room":
        """Has one prefix more."""
        longest = max(self.longest_prefix, length)
        return replace(self, num_prefixes=self.num_prefixes + 1, longest_prefix=longest)

    def with_row(self, length: int) -> "Room":
        """Has one row more."""
        longest = max(self.longest_row, length)
        return replace(self, num_rows=self.num_rows + 1, longest_row=longest)
