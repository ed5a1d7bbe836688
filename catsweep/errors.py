"""Every error that catsweep raises for people.

CatsweepError                what was found, what was expected, and the next move
|-- SpecError                the YAML is wrong: a list of problems, each with file and line      (exit 2)
|-- DataError                a task's data is not what its YAML says                             (exit 2)
|   `-- OutOfReachError      it is not on this machine, and the hub is out of reach              (exit 2)
|-- ModelError               a model, tokenizer or pair cannot do what is asked of it            (exit 2)
|-- TableError               a table of foreign results cannot be read as a cascade              (exit 2)
|-- SweepChangedError        the sweep on storage was made with other settings                   (exit 2)
|-- StorageError             a file on storage is damaged, missing or held by another driver     (exit 1)
|-- EndpointError            a served model cannot be asked, or does not answer                 (exit 1)
|-- ClusterError             the Ray cluster cannot run what is asked of it                      (exit 1)
`-- TrialDivergedError       the training loss became NaN or infinite; the trial ends, the sweep goes on
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from catsweep.redact import redact

_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CatsweepError(Exception):
    """Base of every error that catsweep raises on purpose. `exit_code` is what the command line returns."""

    exit_code = 1

    def __str__(self) -> str:
        """The message, without secrets."""
        return redact(super().__str__())


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a YAML file or an override.

    where: "FILE:LINE", or "override key=value" for the command line. path: the dotted path inside the document,
    empty where `where` says all.
    """

    where: str
    path: str
    found: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: {self.path}" if self.path else self.where
        text = f"{place}: found {self.found}; expected {self.expected}"
        return redact(f"{text}. {self.hint}" if self.hint else text)


class SpecError(CatsweepError):
    """The YAML is wrong. Carries every problem that was found, not only the first."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class DataError(CatsweepError):
    """A task's data is not what its YAML says."""

    exit_code = 2

    def worded(self, text: str) -> DataError:
        """The same error in other words."""
        return type(self)(text)


class OutOfReachError(DataError):
    """Data that is not on this machine, while the hub is out of reach. short: the same in a line, without a way out."""

    def __init__(self, text: str, short: str = "") -> None:
        super().__init__(text)
        self.short = short

    def worded(self, text: str) -> DataError:
        """The same error in other words; its line stays."""
        return OutOfReachError(text, self.short)


class ModelError(CatsweepError):
    """A model, a tokenizer or a pair of models cannot do what is asked of it."""

    exit_code = 2


class TableError(CatsweepError):
    """A table of foreign results cannot be read as a cascade."""

    exit_code = 2


class SweepChangedError(CatsweepError):
    """The sweep on storage was made with settings that cannot be mixed with the new ones."""

    exit_code = 2


class StorageError(CatsweepError):
    """A file on storage is damaged, missing, or held by another driver."""


class EndpointError(CatsweepError):
    """A served model cannot be asked, or does not answer."""


class ClusterError(CatsweepError):
    """The Ray cluster cannot run what is asked of it."""


class TrialDivergedError(CatsweepError):
    """The training loss became NaN or infinite."""


def is_out_of_space(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that no more can be written: the disk is full, or a quota is used up.

    safetensors and numpy raise errors of their own, without a number.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and (error.errno in _OUT_OF_SPACE or "requested and" in str(error)):
            return True
        if any(f"(os error {number})" in str(error) for number in _OUT_OF_SPACE):
            return True
        error = error.__cause__ or error.__context__
    return False
