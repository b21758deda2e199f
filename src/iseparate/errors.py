"""The exceptions that iseparate raises on purpose.

Each message is one sentence for the person at the keyboard: what came, what was expected, what to do. ::

    IseparateError
    ├── UsageError               a wrong word in the call; the command line exits with 2
    │   ├── UnknownModelError
    │   └── UnknownStemError
    ├── AudioError               one input song cannot be used; a batch goes on with the next
    │   ├── AudioReadError       missing, unreadable, or not audio at all
    │   ├── TruncatedAudioError  damaged, or shorter than its own header says
    │   └── AudioFormatError     audio of a shape that is not supported: channels, rate, NaN
    ├── OutputError              a stem cannot be written: permissions, a full disk
    ├── WeightsError
    │   ├── DownloadError        the source cannot be reached or breaks off
    │   ├── ChecksumError        the bytes are not the bytes the card names
    │   ├── OfflineError         a download is needed and downloads are switched off
    │   └── CheckpointError      the file is not a checkpoint that any importer accepts
    │       └── UnsafeCheckpointError   it asks for more than tensors and plain data
    ├── TrainingError            a training cannot go on: a loss that is no number, a checkpoint that does not fit
    └── BackendError             the device, precision or runtime asked for is not to be had here
"""


class IseparateError(Exception):
    """Base of every error that iseparate raises on purpose."""


class UsageError(IseparateError, ValueError):
    """An argument or option has a value that cannot be used."""


class UnknownModelError(UsageError):
    """No card, file or registered architecture goes by that name."""


class UnknownStemError(UsageError):
    """The model has no stem of that name."""


class AudioError(IseparateError):
    """One input cannot be used; others may be."""


class AudioReadError(AudioError):
    """The input is missing, unreadable, or holds no audio."""


class TruncatedAudioError(AudioError):
    """The input is damaged or shorter than it declares."""


class AudioFormatError(AudioError):
    """The input is audio of a kind that cannot be separated."""


class OutputError(IseparateError):
    """A result cannot be written."""


class WeightsError(IseparateError):
    """The weights of a model cannot be made ready."""


class DownloadError(WeightsError):
    """A source cannot be reached, refuses, or breaks off."""


class ChecksumError(WeightsError):
    """Bytes differ from the ones that were promised."""


class OfflineError(WeightsError):
    """A download is needed while downloads are switched off."""


class CheckpointError(WeightsError):
    """A file is not a checkpoint that the importers accept."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint asks for more than tensors and plain data."""


class TrainingError(IseparateError):
    """A training cannot start or go on."""


class BackendError(IseparateError):
    """The device, precision or runtime asked for cannot be had on this machine."""
