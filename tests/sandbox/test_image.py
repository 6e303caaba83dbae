"""The engine's image: what is in it, that it can be made again, what its bill of materials says."""

import ast
import hashlib
import json
import shutil
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

import pytest

from provider.sandbox.image import build as building
from provider.sandbox.image import interpreter, libraries, modules
from provider.sandbox.image.build import build, load
from provider.sandbox.image.contents import ENGINE, PACKAGES, PROJECT, Contents, Recipe, plan
from provider.sandbox.paths import SandboxPaths
from tests.support.sandbox import Sandbox

SMALL = Recipe("small", ("provider.engine.frames",), ("typing-extensions",), ("-c", "pass"))


@pytest.fixture(scope="module")
def contents() -> Contents:
    return plan(ENGINE)


@pytest.fixture
def paths(tmp_path: Path) -> SandboxPaths:
    return SandboxPaths(tmp_path, tmp_path, tmp_path / "cache")


@pytest.fixture
def no_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests to which it does not matter: compiling it takes seconds."""
    monkeypatch.setattr(interpreter, "standard_library", dict)


def members(archive: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(archive) as outer:
        layer = cast("IO[bytes]", outer.extractfile("layer.tar"))
        with tarfile.open(fileobj=layer) as tar:
            return {member.name: member for member in tar}


def test_only_what_the_engine_imports_of_this_project_is_in_it(contents: Contents) -> None:
    ours = {name.removeprefix(f"{PROJECT}/") for name in contents.files if name.startswith(PROJECT)}
    assert "provider/engine/__main__.py" in ours
    assert "provider/engine/scheduler.py" in ours  # imported inside a function only
    assert not {"provider/engine/client.py", "provider/ledger.py", "provider/config.py"} & ours
    assert all(name.startswith("provider/") for name in ours)


def test_nothing_that_reaches_out_is_in_it(contents: Contents) -> None:
    names = [Path(name).name for name in contents.files]
    assert not [name for name in names if name.startswith(("_ssl", "_hashlib", "libssl", "libcrypto"))]
    programs = [name for name in contents.files if name.startswith(("usr/bin/", "usr/sbin/"))]
    assert programs == [contents.interpreter]
    assert not [name for name in contents.files if "/tests/" in name or "ensurepip" in name]


def test_imports_for_type_checkers_do_not_count() -> None:
    source = "if TYPE_CHECKING:\n    import a\nelse:\n    import b\ndef f():\n    from c import d\n"
    assert list(modules._imports(ast.parse(source))) == ["c", "c.d"]
    assert list(modules.module_files("provider.engine.waiting")) == [
        "provider/__init__.py",
        "provider/engine/__init__.py",
        "provider/engine/errors.py",
        "provider/engine/request.py",
        "provider/engine/waiting.py",
    ]


def test_two_builds_are_the_same_to_the_byte(sandbox: Sandbox, paths: SandboxPaths) -> None:
    again = build(paths, ENGINE)
    assert (again.layer, again.image_id, again.inputs) == (
        sandbox.image.layer,
        sandbox.image.image_id,
        sandbox.image.inputs,
    )
    assert again.bill.read_bytes() == sandbox.image.bill.read_bytes()
    assert again.archive.read_bytes() == sandbox.image.archive.read_bytes()


def test_the_daemon_has_what_was_built(sandbox: Sandbox) -> None:
    found = sandbox.client.images.get(sandbox.image.tag)
    assert found.id == sandbox.image.image_id
    assert found.attrs["RootFS"]["Layers"] == [sandbox.image.layer]
    assert found.attrs["Config"]["Labels"] == {building.INPUTS_LABEL: sandbox.image.inputs}
    assert found.attrs["Config"]["User"] == "65534:65534"


@pytest.mark.usefixtures("no_standard_library")
def test_it_is_built_only_when_something_changed(paths: SandboxPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(paths, SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(building, "write_layer", lambda *_: pytest.fail("built again"))
        assert build(paths, SMALL) == first
    changed = build(paths, replace(SMALL, command=("-c", "1")))
    assert changed.image_id != first.image_id
    assert changed.tag != first.tag
    assert changed.layer == first.layer


@pytest.mark.usefixtures("no_standard_library")
def test_a_changed_file_makes_another_image(tmp_path: Path) -> None:
    contents = plan(SMALL)
    before = contents.digest
    name = next(iter(contents.digests))
    contents.digests[name] = "0" * 64
    assert contents.digest != before


@pytest.mark.usefixtures("no_standard_library")
def test_old_images_leave_the_cache(paths: SandboxPaths) -> None:
    built = [build(paths, replace(SMALL, command=("-c", str(number)))) for number in range(building.KEPT + 1)]
    assert [each.archive.exists() for each in built] == [False] + [True] * building.KEPT


@pytest.mark.usefixtures("no_standard_library")
def test_an_interrupted_build_leaves_nothing_that_is_used(paths: SandboxPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(building, "write_whole", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(paths, SMALL)
    assert [path.name for path in paths.images.iterdir()] == [".lock"]
    assert build(paths, SMALL).archive.exists()


def test_owners_times_and_modes_are_fixed(sandbox: Sandbox, contents: Contents) -> None:
    found = members(sandbox.image.archive)
    assert list(found) == sorted(found)
    assert {(member.uid, member.gid, member.mtime) for member in found.values()} == {(0, 0, 0)}
    assert found["tmp"].mode == 0o1777
    writable = [name for name, member in found.items() if member.mode & 0o022 and not member.issym()]
    assert writable == ["tmp"]
    assert not [name for name, member in found.items() if member.mode & 0o6000 and name != "tmp"]
    assert not [member for member in found.values() if member.isdev() or member.islnk()]


def test_every_module_is_compiled(sandbox: Sandbox) -> None:
    found = members(sandbox.image.archive)
    modules = [Path(name) for name in found if name.endswith(".py")]
    compiled = {name for name in found if name.endswith(".pyc")}
    missing = [
        str(path) for path in modules if f"{path.parent}/__pycache__/{path.stem}.cpython-311.pyc" not in compiled
    ]
    assert missing == []


def test_bill_of_materials_names_everything(sandbox: Sandbox, contents: Contents) -> None:
    bill = json.loads(sandbox.image.bill.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert bill["metadata"]["component"]["bom-ref"] == sandbox.image.image_id
    files = {each["name"]: each["hashes"][0]["content"] for each in bill["components"] if each["type"] == "file"}
    assert files == {f"/{name}": digest for name, digest in contents.digests.items()}
    library = contents.files["usr/lib/x86_64-linux-gnu/libc.so.6"]
    assert files["/usr/lib/x86_64-linux-gnu/libc.so.6"] == hashlib.sha256(library.read_bytes()).hexdigest()

    packages = {each["name"]: each for each in bill["components"] if each["type"] == "library"}
    assert packages["llama-cpp-python"]["version"] == "0.3.36"
    assert {"numpy", "jinja2", "libc6", "libstdc++6", "libpython3.11-stdlib", "python3.11-minimal"} <= set(packages)
    assert all(each["version"] and each["licenses"] for each in packages.values())
    assert packages["libc6"]["purl"].startswith("pkg:deb/debian/libc6@")
    unowned = [
        each["name"]
        for each in bill["components"]
        if each["type"] == "file"
        and not each["name"].startswith((f"/{PACKAGES}", f"/{PROJECT}"))
        and "properties" not in each
    ]
    assert unowned == []


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    """A program whose library is gone: the image would not start."""
    source = tmp_path / "a.c"
    source.write_text("int f(void) { return 1; }")
    user = tmp_path / "b.c"
    user.write_text("int f(void); int main(void) { return f(); }")
    import subprocess

    subprocess.run(["gcc", "-shared", "-o", "libgone.so", "a.c"], cwd=tmp_path, check=True)
    subprocess.run(["gcc", "-o", "user", "b.c", "-L.", "-lgone"], cwd=tmp_path, check=True)
    (tmp_path / "libgone.so").unlink()
    from provider.sandbox.errors import ImageError

    with pytest.raises(ImageError, match=r"libgone\.so is missing"):
        libraries.closure([tmp_path / "user"])


@pytest.mark.usefixtures("no_standard_library")
def test_a_damaged_cache_is_named(paths: SandboxPaths) -> None:
    from provider.sandbox.errors import ImageError

    built = build(paths, SMALL)
    (built.archive.parent / "image.json").write_text("{")
    with pytest.raises(ImageError, match="is damaged"):
        build(paths, SMALL)


def test_loading_what_is_no_image_fails(sandbox: Sandbox, tmp_path: Path) -> None:
    from provider.sandbox.errors import ImageError

    with tempfile.NamedTemporaryFile(dir=tmp_path) as file:
        file.write(b"no archive")
        file.flush()
        broken = replace(sandbox.image, image_id="sha256:" + "0" * 64, archive=Path(file.name))
        with pytest.raises(ImageError, match="cannot be loaded"):
            load(sandbox.client, broken)


@pytest.mark.usefixtures("no_standard_library")
def test_stale_images_are_found_and_removed(sandbox: Sandbox, paths: SandboxPaths) -> None:
    old = build(paths, SMALL)
    load(sandbox.client, old)
    current = build(paths, replace(SMALL, command=("-c", "2")))
    assert building.stale(sandbox.client, paths, current) == {old.tag}
    building.remove(sandbox.client, paths, {old.tag})
    assert building.stale(sandbox.client, paths, current) == set()
    assert current.archive.exists()
    assert not old.archive.exists()
    shutil.rmtree(current.archive.parent)
