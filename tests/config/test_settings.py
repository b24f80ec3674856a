"""Settings refuse what they do not know, and say what decides a result."""

from __future__ import annotations

import dataclasses

import pytest
from pydantic import ValidationError

from gigagan_core.config.backend import BackendSettings
from gigagan_core.config.base import Settings, flat, operational, parse, result_settings, with_overrides
from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.config.tradeoff import TradeoffSettings
from gigagan_core.errors import GigaganError


@dataclasses.dataclass(frozen=True)
class Network:
    __pydantic_config__ = {"extra": "forbid"}

    channels: int = 8
    compile: bool = dataclasses.field(default=False, metadata={"operational": True})


class Training(Settings):
    learning_rate: float = 0.0025
    network: Network = Network()
    hosts: dict[str, str] = {}
    threads: int = operational(2)


def test_operational_fields_do_not_decide_a_result() -> None:
    assert result_settings(Training()) == {"learning_rate": 0.0025, "network": {"channels": 8}, "hosts": {}}
    assert result_settings(Training(threads=7)) == result_settings(Training())
    assert result_settings(Training(network=Network(compile=True))) == result_settings(Training())
    assert result_settings(Training(network=Network(channels=9))) != result_settings(Training())


def test_overrides_reach_nested_fields_and_keep_the_rest() -> None:
    changed = with_overrides(Training(threads=3), ["network.channels=16", "learning_rate=1e-4", "hosts.a=b"])
    assert changed.network.channels == 16
    assert changed.learning_rate == 1e-4
    assert changed.hosts == {"a": "b"}
    assert changed.threads == 3


def test_a_dictionary_takes_one_key_after_another_and_keys_with_dots() -> None:
    changed = with_overrides(Training(hosts={"a": "b"}), ["hosts.c=d", "hosts.images.example.org=e:80"])
    assert changed.hosts == {"a": "b", "c": "d", "images.example.org": "e:80"}
    backend = with_overrides(
        BackendSettings(),
        [
            "kuberay.env.A=one",
            "kuberay.env.B=two",
            "ray_job.runtime_env.pip=[]",
            "ray_job.runtime_env.env_vars.C=three",
        ],
    )
    assert backend.kuberay.env == {"A": "one", "B": "two"}
    assert backend.ray_job.runtime_env == {"pip": [], "env_vars": {"C": "three"}}
    with pytest.raises(GigaganError, match=r"unknown key 'kuberay\.envs'; did you mean 'env'"):
        with_overrides(BackendSettings(), ["kuberay.envs.A=one"])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("learning_rte=1", "unknown key 'learning_rte'; did you mean 'learning_rate'"),
        ("network.chanels=1", r"unknown key 'network\.chanels'; did you mean 'channels'"),
        ("learning_rate", "has no '='; write --set KEY=VALUE"),
        ("learning_rate=fast", r"learning_rate: .*number.*got 'fast'"),
        ("threads.x=1", "'threads' is a single value"),
    ],
)
def test_a_wrong_override_is_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(GigaganError, match=sentence) as caught:
        with_overrides(Training(), [override])
    assert "\n" not in str(caught.value)


def test_an_unknown_key_in_a_file_names_the_nearest() -> None:
    with pytest.raises(
        GigaganError, match=r"run\.json: unknown key 'network\.chanels'; did you mean 'channels'"
    ):
        parse(Training, {"network": {"chanels": 4}}, "run.json")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Training().threads = 5


def test_flat_names_every_field_by_its_path() -> None:
    assert flat(Training())["network.channels"] == 8
    assert set(flat(Training())) == {
        "learning_rate",
        "network.channels",
        "network.compile",
        "hosts",
        "threads",
    }


@pytest.mark.parametrize("kind", [EvaluateSettings, TradeoffSettings])
def test_seeds_of_evaluations_have_64_bits(kind: type[Settings]) -> None:
    assert with_overrides(kind(), [f"seed={-(2**63)}"]).seed == -(2**63)
    with pytest.raises(GigaganError, match="seed"):
        with_overrides(kind(), [f"seed={2**63}"])


@pytest.mark.parametrize("value", ["Infinity", "NaN"])
def test_a_number_that_json_cannot_record_is_refused(value: str) -> None:
    with pytest.raises(GigaganError, match="finite number"):
        with_overrides(Training(), [f"learning_rate={value}"])
