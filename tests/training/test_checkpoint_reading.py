"""Reading a checkpoint runs nothing that its files say and opens nothing outside of its folder."""

import hashlib
import json
import os
import pickle
import shutil
from contextlib import suppress

import pytest
import torch
import training_workers as workers
import yaml
from PIL import Image
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from onevision_hf.cli import main
from onevision_hf.training import checkpoint, stored_metadata
from onevision_hf.training.loop import Trainer

NEWEST = "step-00000004"


def trainer(out, **changes):
    config = workers.make_config(out, **{"max_steps": 4, **changes})
    return Trainer(config, workers.make_rows(config))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with checkpoints of the steps 2 and 4."""
    out = tmp_path_factory.mktemp("run")
    assert trainer(out, save_steps=2).fit() == 0
    return out


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def newest(copy):
    return copy / "checkpoints" / NEWEST


def rewrite(file, content):
    """Change a file of a checkpoint and its line in the manifest, as whoever made the folder could."""
    file.write_bytes(content)
    manifest = json.loads((file.parent / "manifest.json").read_text())
    manifest[file.name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (file.parent / "manifest.json").write_text(json.dumps(manifest))


def change(folder, what):
    """Let `what` change the metadata of a checkpoint, which is written as torch writes it."""
    metadata = FileSystemReader(folder).read_metadata()
    metadata.storage_meta = None
    what(metadata)
    rewrite(folder / ".metadata", pickle.dumps(metadata))


def refused(copy, match):
    with pytest.raises(checkpoint.CheckpointError, match=match):
        trainer(copy, max_steps=8).fit()


class Call:
    """Pickles as a call, which whoever unpickles it makes."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def alone(call):
    return call


def in_a_place_that_torch_does_not_read(call):
    return Metadata({}, planner_data={"more": call}, storage_data={})


def in_the_place_of_a_tensor(call):
    return Metadata({"model.more": call}, storage_data={})


def below_what_may_be_there(call):
    return Call(torch.Size, Call(getattr, call, "denominator"))


@pytest.mark.parametrize(
    "hidden",
    [alone, in_a_place_that_torch_does_not_read, in_the_place_of_a_tensor, below_what_may_be_there],
    ids=lambda hidden: hidden.__name__,
)
@pytest.mark.parametrize("function", [os.system, os.mkdir, exec, pickle.loads], ids=lambda f: f.__name__)
def test_a_metadata_that_would_write_a_file_is_refused_by_name_and_does_not(
    copy, newest, tmp_path, function, hidden
):
    target = tmp_path / "written"
    argument = {
        os.system: f"touch {target}", os.mkdir: str(target), exec: f"open({str(target)!r}, 'w')",
        pickle.loads: pickle.dumps(Call(os.mkdir, str(target))),
    }[function]  # fmt: skip
    content = pickle.dumps(hidden(Call(function, argument)))
    rewrite(newest / ".metadata", content)
    refused(copy, rf"{NEWEST}.*\.metadata is not read: it names \w+\.{function.__name__}")
    assert not target.exists()
    with suppress(TypeError, AttributeError):  # the same bytes, read as torch reads them
        pickle.loads(content)
    assert target.exists()


def test_onevision_train_says_in_one_line_what_it_refuses_and_ends_with_1(copy, newest, tmp_path, capsys):
    target = tmp_path / "written"
    rewrite(newest / ".metadata", pickle.dumps(Call(os.mkdir, str(target))))
    media = tmp_path / "media" / "a"
    media.mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (28, 28)).save(media / f"{number}.png")
    head = {"source": str(media.parent), "batch_size": 8, "processor": {"size": 28}, "max_labels": 1}
    values = {**workers.BASE, "out": str(copy), "cluster": {"heads": {"image": head}}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "posix.mkdir, which no checkpoint of tensors holds" in said
    assert not target.exists()


def test_a_metadata_cannot_change_the_classes_that_it_names(copy, newest):
    content = b"ctorch.distributed.checkpoint.metadata\nMetadata\n(N}Vmark\nI1\nstb."
    rewrite(newest / ".metadata", content)
    refused(copy, r"\.metadata is no list of a checkpoint's tensors")
    assert not hasattr(Metadata, "mark")
    pickle.loads(content)
    assert Metadata.mark == 1
    del Metadata.mark


def test_the_names_that_are_let_through_are_those_that_a_checkpoint_holds(newest):
    seen = set()

    class Watching(pickle.Unpickler):
        def find_class(self, module, name):
            seen.add(f"{module}.{name}")
            return super().find_class(module, name)

    with open(newest / ".metadata", "rb") as file:
        Watching(file).load()
    assert "torch.float32" in seen
    other_pythons = {name for name in stored_metadata._NAMES if name.startswith(("builtins.", "pathlib"))}
    assert seen - {"torch.float32", "torch.int32"} - other_pythons == stored_metadata._NAMES - other_pythons


def bytes_in_the_place_of_a_tensor(metadata):  # which torch would give to an unpickler
    metadata.state_dict_metadata[next(iter(metadata.state_dict_metadata))] = BytesStorageMetadata()


def a_file_elsewhere(metadata):
    next(iter(metadata.storage_data.values())).relative_path = "../../../elsewhere"


def a_file_that_is_no_part(metadata):
    next(iter(metadata.storage_data.values())).relative_path = "other"


def a_place_before_the_file(metadata):
    next(iter(metadata.storage_data.values())).offset = -1


def a_size_that_is_none(metadata):
    next(iter(metadata.state_dict_metadata.values())).size = "all"


def no_places(metadata):
    metadata.storage_data = None


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (bytes_in_the_place_of_a_tensor, "BytesStorageMetadata, which no checkpoint"),
        (a_file_elsewhere, r"'\.\./\.\./\.\./elsewhere', which is no file of this checkpoint"),
        (a_file_that_is_no_part, "'other', which is no file of this checkpoint"),
        (a_place_before_the_file, "-1 in the place of a size"),
        (a_size_that_is_none, "a str in the place of a Size"),
        (no_places, "no list of a checkpoint's tensors"),
    ],
)
def test_a_metadata_that_says_what_no_checkpoint_says_is_refused(copy, newest, what, said):
    (newest / "other").write_bytes(b"")
    change(newest, what)
    refused(copy, said)


def test_a_metadata_that_is_no_pickle_or_another_one_is_refused(copy, newest):
    for content in (b"", b"nothing", pickle.dumps({"a": 1}), pickle.dumps(torch.Size([1]))):
        rewrite(newest / ".metadata", content)
        refused(copy, r"\.metadata")


def test_tensors_that_would_write_a_file_are_refused(copy, newest, tmp_path):
    target = tmp_path / "written"
    part = newest / "__0_0.distcp"
    torch.save(Call(os.mkdir, str(target)), tmp_path / "call.pt")
    content = (tmp_path / "call.pt").read_bytes()

    def all_of_it(metadata):
        for place in metadata.storage_data.values():
            place.offset, place.length = 0, len(content)

    change(newest, all_of_it)
    rewrite(part, content)
    refused(copy, "tensors that cannot be read")
    assert not target.exists()


@pytest.mark.parametrize(
    "name", ["../elsewhere", "{tmp}/elsewhere", "step-00000004/../../elsewhere", ".", "", "a\nb", "elsewhere"]
)
def test_latest_that_names_anything_but_a_checkpoint_beside_it_is_refused(copy, tmp_path, name):
    shutil.copytree(copy / "checkpoints" / NEWEST, tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "elsewhere", copy / "elsewhere")
    (copy / "checkpoints" / "latest").write_text(name.format(tmp=tmp_path))
    refused(
        copy, r"which is no checkpoint \(step-NNNNNNNN\); remaining: \['step-00000002', 'step-00000004'\]"
    )


def test_links_in_the_folder_lead_nowhere(copy, newest, tmp_path):
    folder = copy / "checkpoints"
    os.rename(folder / "step-00000002", tmp_path / "elsewhere")
    (folder / "step-00000002").symlink_to(tmp_path / "elsewhere")
    (folder / "latest").write_text("step-00000002")
    refused(copy, r"step-00000002, a link to .*elsewhere; remaining: \['step-00000004'\]")

    (tmp_path / "name").write_text(NEWEST)
    for target in (tmp_path / "name", newest, tmp_path / "nothing"):
        (folder / "latest").unlink()
        (folder / "latest").symlink_to(target)
        refused(copy, "latest is no file of its own")
    (folder / "latest").unlink()
    os.mkfifo(folder / "latest")  # which would be waited for
    refused(copy, "latest is no file of its own")

    (folder / "latest").unlink()
    (folder / "latest").write_text(NEWEST)
    os.rename(newest / "state.json", tmp_path / "state.json")
    (newest / "state.json").symlink_to(tmp_path / "state.json")
    refused(copy, "state.json is a link to")


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc/hostname"])
def test_a_manifest_names_files_of_its_own_folder_only(copy, newest, name):
    manifest = json.loads((newest / "manifest.json").read_text())
    (newest / "manifest.json").write_text(json.dumps({**manifest, name: {"size": 1, "sha256": ""}}))
    refused(copy, "which is no file's name")


def test_a_manifest_that_leaves_a_file_unchecked_is_refused(copy, newest):
    manifest = json.loads((newest / "manifest.json").read_text())
    del manifest[".metadata"]
    (newest / "manifest.json").write_text(json.dumps(manifest))
    refused(copy, r"does not name \.metadata")


def test_saving_writes_through_no_link_that_lies_in_the_folder(copy, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (copy / "checkpoints" / ".latest").symlink_to(precious)
    assert trainer(copy, max_steps=6).fit() == 0
    assert precious.read_text() == "mine"
    assert checkpoint.latest_checkpoint(copy / "checkpoints").name == "step-00000006"
