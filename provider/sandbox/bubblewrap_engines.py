"""Engines under bubblewrap: for development only, since nothing limits them."""

import asyncio
import tempfile
from pathlib import Path
from tempfile import TemporaryDirectory

from provider.engine.bare import ChildEngine
from provider.engine.errors import EngineStartError
from provider.engine.host import EngineSettings
from provider.sandbox import bpf, bubblewrap
from provider.sandbox.engines import check_file, command_of, limits_of, mounts_of
from provider.sandbox.errors import SandboxError
from provider.sandbox.image.build import BuiltImage


class BubblewrapHost:
    """Starts engines that end with this process."""

    def __init__(self, image: BuiltImage) -> None:
        self._image = image

    def new_folder(self) -> TemporaryDirectory[str]:
        """Open to this user only, who the engine is outside of its namespace."""
        return TemporaryDirectory(prefix="clawmarket-engine-")

    async def start(self, settings: EngineSettings, folder: Path) -> ChildEngine:
        """Starts bubblewrap. Raises EngineStartError: `model_missing`, `model_damaged`, `sandbox`."""
        model = check_file(settings.model)
        limits = limits_of(settings)
        with tempfile.TemporaryFile() as filter_file:
            filter_file.write(bpf.filter_program())
            filter_file.seek(0)
            try:
                line = bubblewrap.command_line(
                    await asyncio.to_thread(bubblewrap.root_folder, self._image),
                    command_of(settings),
                    limits,
                    filter_fd=filter_file.fileno(),
                    mounts=mounts_of(model, folder),
                )
                process = await asyncio.create_subprocess_exec(
                    *line,
                    stdin=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    pass_fds=[filter_file.fileno()],
                )
            except (SandboxError, OSError) as error:
                raise EngineStartError("sandbox", f"bubblewrap cannot be started: {error}") from error
        return ChildEngine(process)
