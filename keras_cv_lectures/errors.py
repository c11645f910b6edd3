"""What goes wrong for a reason the user can repair.

All are ValueErrors, so scripts may catch any. The command line turns them into one line on standard error and
exit code 1; every message names the thing, what was expected, what was found, and the repair.
"""


class DataError(ValueError):
    """A picture, a label file or a data specification is at fault."""


class ModelError(ValueError):
    """A model file, a model's settings or a training run is at fault."""


class PictureError(ModelError):
    """A model does not take this picture, or failed on it; one of another size may pass."""


class KcvlWarning(UserWarning):
    """Nothing stops, but the result may not be what was meant: the command line prints it as a line of its own."""
