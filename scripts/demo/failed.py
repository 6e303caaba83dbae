"""What ends a demo early."""


class DemoFailed(Exception):  # noqa: N818 - it is what happened
    """A step did not do what it should."""
