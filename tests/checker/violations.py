"""What a check finds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """`invariant` is its number (I1), `subject` what breaks it. Two looks that find the same thing give equal
    violations: nothing that changes by itself, such as an age, belongs in here."""

    invariant: str
    subject: str
    problem: str

    def __str__(self) -> str:
        return f"{self.invariant}  {self.subject}: {self.problem}"
