"""Settings, model names and code digests."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from attestation.endorse import EndorsedAttester
from enclave import __main__ as process
from enclave.config import load_config
from enclave.engine.echo import EchoEngine
from enclave.errors import StartError
from enclave.manifest import engine_digest, manifest_root

GOOD: dict[str, Any] = {
    "listen": "127.0.0.1:0",
    "control": "control.sock",
    "state": "state",
    "payee": "0:" + "ab" * 32,
    "operator_key": "cd" * 32,
    "models": [{"path": "model"}],
    "engine": "torch",
    "hardware": {"none": True},
}


def load(tmp_path: Path, settings: object) -> Any:
    path = tmp_path / "enclave.yaml"
    path.write_text(yaml.safe_dump(settings))
    return load_config(path)


def test_good_settings_are_read_with_paths_relative_to_the_file(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD | {"coefficient": 900, "hardware": {"simulated": "hw.bin"}})
    assert (config.host, config.port) == ("127.0.0.1", 0)
    assert config.payee == b"\x00" + b"\xab" * 32
    assert config.models == (tmp_path / "model",)
    assert (config.simulated, config.control) == (tmp_path / "hw.bin", tmp_path / "control.sock")
    assert (config.coefficient, config.coalesce_ms, config.context) == (900, 0, None)


def test_a_masterchain_payee_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD | {"payee": "-1:" + "ab" * 32}).payee[0] == 255


@pytest.mark.parametrize(
    "change",
    [
        {"listen": "127.0.0.1"},
        {"listen": ":80"},
        {"listen": "host:99999"},
        {"listen": 80},
        {"listen_tls": "127.0.0.1"},
        {"control": ""},
        {"payee": "ab" * 32},
        {"payee": "0:ab"},
        {"payee": "1:" + "ab" * 32},
        {"operator_key": "zz"},
        {"operator_key": 12},
        {"models": []},
        {"models": "model"},
        {"models": [{"path": "a", "more": 1}]},
        {"models": [{"path": 3}]},
        {"engine": "echo"},
        {"engine": "magic"},
        {"hardware": {}},
        {"hardware": {"none": False}},
        {"hardware": {"none": True, "simulated": "x"}},
        {"hardware": "tdx"},
        {"coefficient": -1},
        {"coefficient": 1.5},
        {"max_running": 0},
        {"coalesce_ms": 5000},
        {"context": 0},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, change: dict[str, Any]) -> None:
    [key] = change
    with pytest.raises(StartError, match=key):
        load(tmp_path, GOOD | change)


@pytest.mark.parametrize("key", sorted(GOOD))
def test_a_missing_setting_is_refused_by_name(tmp_path: Path, key: str) -> None:
    with pytest.raises(StartError, match=f"lacks: {key}"):
        load(tmp_path, {name: value for name, value in GOOD.items() if name != key})


def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError):
        load(tmp_path, ["a", "b"])
    (tmp_path / "broken.yaml").write_text("a: [")
    for name in ("broken.yaml", "missing.yaml"):
        with pytest.raises(StartError, match=name):
            load_config(tmp_path / name)


def make_model(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "sub" / "weights").write_bytes(b"\0" * 100)
    return folder


def test_the_manifest_root_is_that_of_the_bytes_and_names_alone(tmp_path: Path) -> None:
    one, two = make_model(tmp_path / "one"), make_model(tmp_path / "two")
    assert manifest_root(one) == manifest_root(two)
    assert manifest_root(one).hex() == "52fa4303cdac6bf48c616794a9c32d84bb3d035a4ab05c646947fd52418129eb"


@pytest.mark.parametrize("change", ["content", "name", "added", "removed", "moved"])
def test_any_change_of_a_model_folder_changes_its_root(tmp_path: Path, change: str) -> None:
    folder = make_model(tmp_path / "model")
    before = manifest_root(folder)
    match change:
        case "content":
            (folder / "sub" / "weights").write_bytes(b"\0" * 99 + b"\1")
        case "name":
            (folder / "config.json").rename(folder / "Config.json")
        case "added":
            (folder / "extra.py").write_bytes(b"")
        case "removed":
            (folder / "config.json").unlink()
        case "moved":
            (folder / "sub" / "weights").rename(folder / "weights")
    assert manifest_root(folder) != before


def test_a_folder_with_links_or_nothing_in_it_is_no_model(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    (folder / "link").symlink_to("config.json")
    with pytest.raises(StartError, match="link"):
        manifest_root(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StartError, match="0 files"):
        manifest_root(tmp_path / "empty")
    with pytest.raises(StartError, match="not a folder"):
        manifest_root(tmp_path / "missing")


def test_the_engine_digest_covers_code_and_versions(tmp_path: Path) -> None:
    source = tmp_path / "enclave" / "service.py"
    source.parent.mkdir()
    source.write_text("a = 1\n")
    before = engine_digest(["torch 2"], tmp_path)
    assert engine_digest(["torch 2"], tmp_path) == before
    assert engine_digest(["torch 3"], tmp_path) != before
    source.write_text("a = 2\n")
    assert engine_digest(["torch 2"], tmp_path) != before
    assert len(engine_digest([])) == 32


@pytest.mark.parametrize("when", ["before it is loaded", "while it is loaded"])
async def test_another_model_put_into_the_folder_is_not_served_under_the_attested_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    (tmp_path / "model").mkdir()
    weights = tmp_path / "model" / "weights"
    weights.write_text("dear")
    engine = EchoEngine()

    async def load_engine(*_: object, **__: object) -> EchoEngine:
        if when == "while it is loaded":
            weights.write_text("cheap")
        return engine

    monkeypatch.setattr(process, "load_engine", load_engine)
    config = load(tmp_path, GOOD)
    load_model = process._loader(config, {manifest_root(tmp_path / "model"): tmp_path / "model"})
    if when == "before it is loaded":
        weights.write_text("cheap")
    with pytest.raises(StartError, match="was changed"):
        await load_model(tmp_path / "model")
    assert not engine.alive


def test_endorsements_are_fetched_only_from_addresses_that_the_settings_name(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).endorser is None
    config = load(tmp_path, GOOD | {"endorsements": {"amd": "https://kds.invalid"}})
    assert config.endorser.fetcher.folder == tmp_path / "state" / "endorsements"
    assert isinstance(process._hardware(config)[0], EndorsedAttester)
    with pytest.raises(StartError, match="endorsements"):
        load(tmp_path, GOOD | {"endorsements": {}})
