"""What is no frame is refused."""

import pytest

from provider.engine import frames


def test_frames_refuse_what_is_no_frame() -> None:
    assert frames.decode(frames.encode({"op": "x", "text": "é"})[4:]) == {"op": "x", "text": "é"}
    for header in (b"\0\0\0\0", (frames.MAX_FRAME_BYTES + 1).to_bytes(4, "big")):
        with pytest.raises(frames.FrameError):
            frames.body_length(header)
    for body in (b"[1]", b"{", b"\xff"):
        with pytest.raises(frames.FrameError):
            frames.decode(body)
    with pytest.raises(frames.FrameError):
        frames.encode({"text": "x" * frames.MAX_FRAME_BYTES})
