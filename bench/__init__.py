"""The bench: problem -> inputs -> strategy -> validation -> timing -> record -> table."""


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says why in one sentence."""
