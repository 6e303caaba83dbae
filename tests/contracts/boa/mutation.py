"""Shows that a state machine can fail: it must find the broken invariant in a copy of the contracts with one mutation.

A machine states its invariants through `hold("<name>", condition)` and deploys from its class attribute `sources`.
`run_machine(Machine)` drives it at random over the contracts as they are. For a mutated copy the steps that expose the
mutation are named: `assert_steps_expose` asserts that the named invariant breaks, and `live` with the same steps on the
contracts as they are is its control. `assert_machine_finds` searches for the mutation at random, for soak runs.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.contracts.boa import market

SETTINGS = settings(
    max_examples=20,
    stateful_step_count=30,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate,),
    report_multiple_bugs=False,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)

_IMPORT = re.compile(r"^from (\.+)([\w.]*) import (\w+)", re.MULTILINE)


class InvariantBrokenError(AssertionError):
    """An invariant does not hold; the message begins with its name and a colon."""


@dataclass(frozen=True)
class Mutation:
    """One change to one contract source. `old` occurs exactly once in `file`, a path inside `contracts/`.

    `breaks` is the invariant that it breaks; `or_first` are those that follow from the same fault and may show first.
    """

    name: str
    file: str
    old: str
    new: str
    breaks: str
    or_first: tuple[str, ...] = ()


class Machine(RuleBasedStateMachine):
    """A state machine that deploys the market from `sources`; `run_settings` say how long it is driven."""

    sources: ClassVar[Path] = market.CONTRACTS
    run_settings: ClassVar[settings] = SETTINGS

    @classmethod
    def prepare(cls) -> None:
        """What is done once before all examples, such as a deployment that each example then starts from."""

    def abandon(self) -> None:
        """Undo all of this life on the chain, without a look at it."""


M = TypeVar("M", bound=Machine)


def hold(invariant: str, condition: object, detail: object = "") -> None:
    """Raise InvariantBrokenError with the invariant's name unless the condition is true."""
    if not condition:
        raise InvariantBrokenError(f"{invariant}: {detail}")


@contextmanager
def mutated(mutation: Mutation) -> Iterator[Path]:
    """A copy of the contracts with the mutation in it.

    Contracts which the mutation does not reach are taken from the original, so that they need not be compiled again.
    Raises ValueError if the old text does not occur exactly once: the contract has moved on without its mutation.
    """
    with TemporaryDirectory() as folder:
        tree = Path(folder) / "contracts"
        shutil.copytree(market.CONTRACTS, tree)
        path = tree / mutation.file
        text = path.read_text()
        if text.count(mutation.old) != 1:
            raise ValueError(f"{mutation.name}: old text occurs {text.count(mutation.old)} times in {mutation.file}")
        path.write_text(text.replace(mutation.old, mutation.new))
        reached = {contract.stem for contract in tree.glob("*.vy") if path in _closure(contract)}
        compile_contract = market.deployer

        def deployer(sources: Path, name: str) -> Any:
            return compile_contract(sources if name in reached else market.CONTRACTS, name)

        with patch.object(market, "deployer", deployer):
            yield tree


def run_machine(machine: type[Machine]) -> None:
    """Run the machine on the real contracts; it must pass."""
    machine.prepare()
    run_state_machine_as_test(machine, settings=machine.run_settings)


def live(machine: type[M], steps: Callable[[M], None]) -> None:
    """One life: the start, the steps, every invariant, and the machine's end."""
    machine.prepare()
    one = machine()
    try:
        steps(one)
        for found in one.invariants:
            found.function(one)
    except BaseException:
        one.abandon()
        raise
    one.teardown()


def assert_steps_expose(machine: type[M], mutation: Mutation, steps: Callable[[M], None]) -> None:
    """Take the steps on the mutated contracts; they must break the mutation's invariant."""
    with mutated(mutation) as tree:
        broken: type[M] = type(f"Broken{machine.__name__}", (machine,), {"sources": tree})
        with pytest.raises(InvariantBrokenError) as caught:
            live(broken, steps)
    assert str(caught.value).partition(":")[0] in (mutation.breaks, *mutation.or_first), caught.value


def assert_machine_finds(machine: type[Machine], mutation: Mutation) -> None:
    """Run the machine on the mutated contracts; it must break the mutation's invariant."""
    with mutated(mutation) as tree:
        for contract in ("Params", "Registry", "Staking", "LeaseEscrow", "ClawToken", "UsageAnchor"):
            market.deployer(tree, contract)
        name = f"{machine.__name__}On{mutation.name.title().replace('_', '')}"
        broken: type[Machine] = type(name, (machine,), {"sources": tree})
        broken.prepare()
        # Three times the control's effort: a search ends where it finds, and no change of a rule should lose one.
        longer = settings(machine.run_settings, max_examples=3 * machine.run_settings.max_examples)
        with pytest.raises(InvariantBrokenError) as caught:
            run_state_machine_as_test(broken, settings=longer)
    first = _first(caught.value)
    assert str(first).partition(":")[0] in (mutation.breaks, *mutation.or_first), first


def _first(error: BaseException) -> BaseException:
    """The failure that came first: a teardown that checks everything may fail after it."""
    while isinstance(error.__context__, InvariantBrokenError):
        error = error.__context__
    return error


def _closure(source: Path) -> set[Path]:
    """The file and all project files it imports, directly or not."""
    found: set[Path] = set()
    todo = [source]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        for dots, package, name in _IMPORT.findall(path.read_text()):
            folder = (
                path.parents[len(dots) - 1].joinpath(*package.split(".")) if package else path.parents[len(dots) - 1]
            )
            todo += [file for file in (folder / f"{name}.vy", folder / f"{name}.vyi") if file.exists()]
    return found
