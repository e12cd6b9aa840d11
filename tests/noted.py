"""What a dialect's reader makes of frames."""

from proxy.dialects.dialect import Dialect, Reader, TextKind


def noted(dialect: Dialect, *frames: bytes) -> Reader:
    """Return a reader that has been shown these frames."""
    reader = dialect.frames.reader()
    for frame in frames:
        reader.note(frame)
    return reader


def kind(dialect: Dialect, frame: bytes) -> TextKind | None:
    """Return the kind of generated text in a stream's first frame."""
    return dialect.frames.reader().note(frame)
