"""The errors that Autotuner raises, each named after the fact that it reports."""


class AutotunerError(Exception):
    """Something that the caller can read and act on: the message names value, allowed values and origin."""


class ConfigurationError(AutotunerError):
    """A configuration value, flag or environment variable is not allowed."""


class DeclarationError(AutotunerError):
    """What a run says of itself (its knobs, budget or objective) is not allowed."""


class ProtocolError(AutotunerError):
    """Bytes from the other side are torn, corrupt, or of another version."""


class JournalError(AutotunerError):
    """The journal cannot be opened, read or written."""


class ArtefactError(AutotunerError):
    """A policy artefact is missing, damaged, or made for another observation or action version."""


class DatasetError(AutotunerError):
    """No usable images were found, or the ones found are damaged."""
