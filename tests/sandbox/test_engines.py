"""Engines in containers, through their client: they serve, end, and come back as bare ones do."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from provider.backend import GenerationRequest, Prompt
from provider.engine.bare import BareHost
from provider.engine.client import EngineClient, EngineSettings
from provider.engine.errors import EngineCrashed, EngineStartError
from provider.engine.threads import NICENESS
from provider.sandbox import containers, processes
from provider.sandbox.bubblewrap_engines import BubblewrapHost
from provider.sandbox.daemon import Daemon
from provider.sandbox.engines import ContainerHost, explain, limits_of
from provider.sandbox.tiers import PRODUCTION_TIERS, Tier
from tests.support.anvil import ROOT
from tests.support.engine_slots import hold_engine_slots
from tests.support.engines import tiny_model
from tests.support.generating import ask, collect, ids, run
from tests.support.sandbox import Sandbox, running_sandbox
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("slot")
in_loop = pytest.mark.asyncio(loop_scope="module")
SETTINGS = EngineSettings(tiny_model(), threads=1, parallel=3)


@pytest.fixture(scope="module")
def slot() -> Iterator[None]:
    with hold_engine_slots(1):
        yield


def host_of(sandbox: Sandbox, tier: Tier = Tier.GVISOR_SYSTRAP) -> ContainerHost:
    return ContainerHost(sandbox.paths, tier, sandbox.image)


def engines_of(sandbox: Sandbox) -> list[str]:
    return [each.name for each in containers.listed(sandbox.client) if each.role == "engine"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine(sandbox: Sandbox) -> AsyncIterator[EngineClient]:
    client = EngineClient(SETTINGS, host_of(sandbox))
    await client.start()
    yield client
    await client.stop()


@in_loop
@pytest.mark.parametrize("tier", [*PRODUCTION_TIERS, Tier.BUBBLEWRAP])
async def test_answers_are_those_of_a_bare_engine(sandbox: Sandbox, tier: Tier) -> None:
    answers = []
    inside = BubblewrapHost(sandbox.image) if tier is Tier.BUBBLEWRAP else host_of(sandbox, tier)
    for host in (BareHost(), inside):
        client = EngineClient(SETTINGS, host)
        await client.start()
        answers.append(ids(await run(client, "hello there")))
        await client.stop()
    assert answers[0] == answers[1]
    assert engines_of(sandbox) == []
    assert not list(sandbox.paths.share.glob("engine-*"))


@in_loop
async def test_killed_container_fails_its_requests_and_another_one_serves(
    sandbox: Sandbox, engine: EngineClient
) -> None:
    before = engine.restarts
    generation = await engine.generate(GenerationRequest(Prompt(ask("doomed")), 200, temperature=0.0))
    await generation.pause()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineCrashed):
        await collect(generation)
    await until(lambda: engine.is_ready)
    assert engine.restarts == before + 1
    assert len((await run(engine, "alive"))[0]) == 24
    assert len(engines_of(sandbox)) == 1


@in_loop
async def test_a_container_that_hangs_is_ended_and_started_again(sandbox: Sandbox) -> None:
    client = EngineClient(EngineSettings(tiny_model(), hang_s=1.0), host_of(sandbox))
    await client.start()
    stopped = next(each for each in containers.ours(sandbox.client) if each.attrs["State"]["Pid"] == client.pid)
    stopped.pause()
    generation = await client.generate(GenerationRequest(Prompt(ask("hang")), 200, temperature=0.0))
    with pytest.raises(EngineCrashed, match="hung"):
        await collect(generation)
    await until(lambda: client.is_ready)
    assert len((await run(client, "alive"))[0]) == 24
    await client.stop()


@in_loop
async def test_it_goes_last_in_line_for_the_processor(engine: EngineClient) -> None:
    assert engine.pid is not None
    assert os.getpriority(os.PRIO_PROCESS, engine.pid) >= NICENESS


@in_loop
async def test_sees_nothing_but_its_model_and_its_socket(sandbox: Sandbox, engine: EngineClient) -> None:
    mounts = sandbox.client.containers.get(engines_of(sandbox)[0]).attrs["Mounts"]
    assert sorted((each["Destination"], each["RW"]) for each in mounts) == [
        ("/models/tiny.gguf", False),
        ("/run/host", False),
    ]
    assert engine.is_ready


@in_loop
async def test_cancelled_start_leaves_no_container(sandbox: Sandbox, engine: EngineClient) -> None:
    assert engine.is_ready
    others = engines_of(sandbox)
    for delay_s in (0.0, 0.2, 0.6):
        client = EngineClient(SETTINGS, host_of(sandbox))
        starting = asyncio.create_task(client.start())
        await asyncio.sleep(delay_s)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await client.stop()
        assert engines_of(sandbox) == others


@in_loop
@pytest.mark.parametrize(
    ("content", "mode", "code", "words"),
    [
        (None, 0o644, "model_missing", "cannot be read"),
        (b"not a model at all", 0o644, "model_damaged", "is not a"),
        (b"GGUF", 0o600, "model_missing", "chmod o\\+r"),
    ],
    ids=["missing", "text", "private"],
)
async def test_unusable_model_is_a_clear_error(
    sandbox: Sandbox, tmp_path: Path, content: bytes | None, mode: int, code: str, words: str
) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    client = EngineClient(EngineSettings(path, memory=1 << 20), host_of(sandbox))
    with pytest.raises(EngineStartError, match=words) as failure:
        await client.start()
    assert failure.value.code == code
    await client.stop()


@in_loop
@pytest.mark.parametrize("tier", PRODUCTION_TIERS)
async def test_too_little_memory_is_named(sandbox: Sandbox, tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provider.sandbox.engines._OVERHEAD_BYTES", 24 << 20)
    client = EngineClient(EngineSettings(tiny_model(), memory=1 << 20), host_of(sandbox, tier))
    with pytest.raises(EngineStartError, match="memory"):
        await client.start()
    await client.stop()


def test_how_an_engine_ended_is_said() -> None:
    assert "more than its 512 MiB of memory" in explain({"ExitCode": 137, "OOMKilled": True}, 512 << 20, b"")
    assert "by somebody or for using more" in explain({"ExitCode": 137, "OOMKilled": False}, 512 << 20, b"")
    assert explain({"ExitCode": 5, "OOMKilled": False}, 1, b"engine: no\nroom\n") == (
        "engine exited with code 5: engine: no | room"
    )


def test_limits_follow_the_settings() -> None:
    small = limits_of(EngineSettings(tiny_model(), threads=1, parallel=1, context=64))
    large = limits_of(EngineSettings(tiny_model(), threads=2, parallel=8, context=512))
    assert large.memory > small.memory
    assert large.pids > small.pids
    assert large.cpus <= len(os.sched_getaffinity(0))


@in_loop
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Docker's client forgets sockets
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_engine_comes_back_after_the_daemon_ended(end: signal.Signals) -> None:
    with running_sandbox() as own:
        client = EngineClient(SETTINGS, host_of(own))
        await client.start()
        first = client.pid
        pid = Daemon(own.paths).pid()
        assert pid is not None
        os.kill(pid, end)
        await until(lambda: not processes.is_alive(pid))
        if client.is_ready and client.pid == first:  # a killed daemon takes no container with it
            assert len((await run(client, "still here"))[0]) == 24
            os.kill(first or 0, signal.SIGKILL)
        await until(lambda: client.is_ready and client.pid != first, 60)
        assert len((await run(client, "alive"))[0]) == 24
        await client.stop()


_DYING = """
import asyncio, os, sys
from pathlib import Path
from provider.engine.client import EngineClient, EngineSettings
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.serving import open_sandbox
async def main():
    sandbox = open_sandbox(SandboxPaths.under(Path(sys.argv[1])))
    client = EngineClient(EngineSettings(Path(sys.argv[2])), sandbox.engines)
    await client.start()
    print(sandbox.tier, client.pid, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""


@in_loop
async def test_what_a_killed_worker_left_is_gone_after_the_next_start(sandbox: Sandbox) -> None:
    others = engines_of(sandbox)
    folder = sandbox.paths.state.parent
    line = [sys.executable, "-c", _DYING, str(folder), str(tiny_model())]
    done = await asyncio.to_thread(subprocess.run, line, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    tier, _ = done.stdout.decode().split()
    assert tier == Tier.GVISOR_SYSTRAP
    assert len(list(sandbox.paths.share.glob("engine-*"))) > len(others)
    assert host_of(sandbox).sweep() >= 1
    assert engines_of(sandbox) == others
    assert len(list(sandbox.paths.share.glob("engine-*"))) == len(others)
