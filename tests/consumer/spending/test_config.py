"""The consumer's configuration: defaults, paths, and faults that are named."""

from pathlib import Path

import pytest

from consumer.config import ConsumerConfig
from consumer.exceptions import ConfigUnusable
from consumer.spending.allowance import Allowance
from protocol.money import Money

LEAST = 'rpc = ["http://127.0.0.1:1"]\ndeployment = "d.json"\n'


def load(folder: Path, text: str = "") -> ConsumerConfig:
    path = folder / "consumer.toml"
    path.write_text(LEAST + text)
    return ConsumerConfig.load(path)


def test_everything_has_a_default(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.data == tmp_path / "data"
    assert config.owner_key == tmp_path / "owner.json"
    assert config.tokenizer_files == []
    assert config.budget.per_day.as_list() == ["5 USDC"]
    assert (str(config.leases.amount), str(config.leases.max_locked)) == ("2 USDC", "10 USDC")


def test_paths_are_relative_to_the_file_and_the_old_tokenizer_counts(tmp_path: Path) -> None:
    config = load(tmp_path, 'tokenizer = "a.gguf"\ntokenizers = ["b.gguf", "/c.gguf"]\ndata = "/elsewhere"\n')
    assert config.tokenizer_files == [tmp_path / "a.gguf", tmp_path / "b.gguf", Path("/c.gguf")]
    assert config.data == Path("/elsewhere")


def test_budgets_and_leases_are_read(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        '[budget]\nper_day = ["1.5 USDC", "2 CLAW"]\n[budget.models]\n"some/model" = ["0.1 USDC"]\n'
        '[leases]\namount = "3 USDC"\ndays = 2\ntop_up_below = 0.5\nmax_locked = "9 USDC"\n',
    )
    assert config.budget.per_day == Allowance((Money.parse("1.5 USDC"), Money.parse("2 CLAW")))
    assert config.budget.models["some/model"].limit("USDC") == 100_000
    assert config.leases.duration_s == 2 * 86_400
    assert config.leases.is_low(1_499_999, 3_000_000)
    assert not config.leases.is_low(1_500_000, 3_000_000)


def test_every_section_is_composed_and_its_paths_are_the_files(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        '[limits]\nallow = [1]\n[gateway]\nport = 0\n[local.small]\npath = "small.gguf"\n'
        '[upstream.other]\nurl = "http://127.0.0.1:9/v1"\nmodels = ["m"]\n',
    )
    assert (config.limits.allow, config.gateway.port) == ((1,), 0)
    assert config.local["small"].path == tmp_path / "small.gguf"
    assert config.upstream["other"].models == ["m"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[budget]\nper_day = [5]\n", "budget.per_day"),
        ('[budget]\nper_day = ["5 EUR"]\n', "budget.per_day"),
        ('[budget]\nper_day = ["5 USDC", "6 USDC"]\n', "a token comes twice"),
        ('[budget]\nper_month = ["5 USDC"]\n', "budget.per_month"),
        ('[leases]\namount = "0.0000001 USDC"\n', "leases.amount"),
        ('[leases]\namount = "20 USDC"\n', "max_locked"),
        ('[leases]\namount = "2 CLAW"\n', "one token"),
        ("[leases]\ndays = 0\n", "leases.days"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigUnusable, match=named):
        load(tmp_path, text)


def test_an_allowance_names_every_token_it_allows() -> None:
    allowance = Allowance.parse(["5 USDC"])
    assert (allowance.limit("USDC"), allowance.limit("CLAW")) == (5_000_000, 0)
    assert Allowance().limit("CLAW") is None
