"""The errors of `llava_core`, and what is shown of those of libraries.

LlavaError
├── ConfigError      a config, a template name or a setting that is unknown or contradicts another
├── CheckpointError  files of a checkpoint that are missing, unreadable or do not fit the model
└── DataError        a picture, a prompt or a conversation that cannot be used
"""


class LlavaError(Exception):
    """Anything a user can put right; the message says what was given and what to change."""


class ConfigError(LlavaError):
    """A config field, template name or setting that is unknown or contradicts another."""


class CheckpointError(LlavaError):
    """A checkpoint whose files or tensors do not make a model."""


class DataError(LlavaError):
    """A picture, prompt or conversation that the model cannot be given."""


def one_line(error: Exception) -> str:
    """The whole text of a library's error, without its line breaks."""
    return " ".join(str(error).split())


def first_line(error: Exception) -> str:
    """The first line of a library's error, or its type where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
