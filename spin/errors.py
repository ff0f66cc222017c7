"""What a user can cause, as one exception tree.

SpinError                the base: its message is one sentence with the expected, the received and the remedy
├── ParamsError          params.yaml: an unknown key, a wrong type, a value out of range
├── DataError            the training set or a prompt set: missing, empty, unreadable
├── ModelError           a base model or checkpoint: missing, of another family, torn
├── ScoreError           a reward model or its scores: missing weights, NaN, images that cannot be judged
├── EvaluationError      tables: models that were not measured alike, missing scores
├── TrackingError        MLflow: not installed, unreachable, or it refuses
├── FileError            a file that a stage made: missing, empty or torn
├── DamagedError         a file that a stage made holds other bytes than were written
└── NonFiniteError       training: a loss or gradient that is not finite, refused before the optimizer moves

The command line prints the message and exits with code 2; anything else that escapes is a bug of ours.
"""

import unicodedata


class SpinError(Exception):
    """Something the user can mend; the message says what was expected, what came and what to do.

    It is one line: line breaks and control signs of what came are shown as `\\n`, `\\x1b`.
    """

    def __str__(self) -> str:
        said = super().__str__()
        return said if said.isprintable() else "".join(map(_shown, said))


def _shown(sign: str) -> str:
    return repr(sign)[1:-1] if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") else sign


class ParamsError(SpinError):
    """A value of params.yaml breaks its rule."""


class DataError(SpinError):
    """A data set or prompt set is missing, empty or unreadable."""


class ModelError(SpinError):
    """A base model or checkpoint is missing, torn or of another family."""


class ScoreError(SpinError):
    """A reward model cannot be loaded, or its scores cannot be used."""


class EvaluationError(SpinError):
    """Scores that cannot be compared or tabulated."""


class TrackingError(SpinError):
    """MLflow was asked for and is not there, or refuses."""


class FileError(SpinError, ValueError):
    """A file that a stage made is missing, empty or torn."""


class DamagedError(SpinError):
    """A file that a stage made holds other bytes than were written, or is gone from among them."""


class NonFiniteError(SpinError):
    """A loss or gradient norm is NaN or infinite; the step was not applied."""
