"""A source stands for its files, all of them; what is passed over is said, and what is not a file is refused."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import huggingface_hub
import huggingface_hub.constants
import pytest

from meap.errors import DataError
from meap.prep.inputs import find_inputs
from meap.prep.progress import Tally
from meap.prep.reader import ReadDocuments

LINE = b'{"text": "one"}\n'


@pytest.fixture(params=["local", "memory://"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder on this disk, and one in a store that has no folders."""
    yield str(tmp_path / "in") if request.param == "local" else "memory://bucket"
    if request.param != "local":
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def fill(place: str, *names: str) -> None:
    for name in names:
        with fsspec.open(f"{place}/{name}", "wb", auto_mkdir=True) as file:
            file.write(LINE)  # type: ignore[union-attr]


@pytest.mark.parametrize("odd", ["br[1]", "a*", "b?", "[!x]", "c[1]*"])
def test_a_path_that_exists_is_taken_as_it_is(place, odd):
    fill(
        place,
        f"{odd}/a.jsonl",
        f"{odd}/b.jsonl",
        f"{odd}.jsonl",
        "br1/no.jsonl",
        "aa/no.jsonl",
        "bb.jsonl",
        "[!y].jsonl",
    )
    assert find_inputs(f"{place}/{odd}").names == ("a.jsonl", "b.jsonl")
    assert find_inputs(f"{place}/{odd}/").names == ("a.jsonl", "b.jsonl")
    assert find_inputs(f"{place}/{odd}/*.jsonl").urls == (f"{place}/{odd}/a.jsonl", f"{place}/{odd}/b.jsonl")
    assert find_inputs(f"{place}/{odd}/a.jsonl").names == ("a.jsonl",)
    assert find_inputs(f"{place}/{odd}.jsonl").urls == (f"{place}/{odd}.jsonl",)
    with find_inputs(f"{place}/{odd}/*").open(0) as opened:
        assert opened.read() == LINE


def test_every_spelling_of_a_known_end_is_read_and_the_rest_is_said(place, capsys):
    fill(place, "a.jsonl", "B.JSONL", "c.Csv", "d.TXT.GZ", "x.docx", "y.docx", "README", ".hidden", "below/e.jsonl")
    assert find_inputs(place).names == ("B.JSONL", "a.jsonl", "c.Csv", "d.TXT.GZ")
    assert capsys.readouterr().err == f"note: source={place}: passed over 2 of .docx, 1 of no extension, 1 folder\n"
    assert find_inputs(f"{place}/a.*").names == ("a.jsonl",)
    assert capsys.readouterr().err == ""


def test_a_pattern_says_which_files_differ_in_case_alone(tmp_path, capsys):
    fill(str(tmp_path), "a.jsonl", "B.JSONL", "c.txt")
    assert find_inputs(f"{tmp_path}/*.jsonl").names == ("a.jsonl",)
    assert capsys.readouterr().err == f"note: source={tmp_path}/*.jsonl: passed over 1 of .JSONL\n"


def test_a_folder_without_a_readable_file_says_what_it_holds(place):
    fill(place, *(f"{number}.md" for number in range(300)), "one/a.jsonl", "two/b.jsonl")
    with pytest.raises(DataError, match=r"matches no file.*; passed over: 300 of .md, 2 folders: give a path, glob"):
        find_inputs(place)
    with pytest.raises(DataError, match=r"passed over: 300 of .md, 2 folders: .* \(of .bin\) or URL of chunks"):
        find_inputs(place, suffixes=(".bin",), kind="chunks")


@pytest.mark.parametrize("source", ["", "/*.jsonl", "/a.jsonl"])
@pytest.mark.timeout(20)
def test_a_named_pipe_is_refused_in_no_time(tmp_path, source):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"a.jsonl is a named pipe, .*: write it to a file"):
        find_inputs(f"{tmp_path}{source}")


def test_links_stand_for_what_they_lead_to(tmp_path):
    fill(str(tmp_path), "real/a.jsonl")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.jsonl").symlink_to(tmp_path / "real" / "a.jsonl")
    (tmp_path / "in" / "folder.jsonl").symlink_to(tmp_path / "real")
    found = find_inputs(f"{tmp_path}/in")
    assert (found.names, found.sizes) == (("b.jsonl",), (len(LINE),))
    assert find_inputs(f"{tmp_path}/in/folder.jsonl").names == ("a.jsonl",)
    (tmp_path / "in" / "c.jsonl").symlink_to(tmp_path / "gone")
    reader = ReadDocuments(find_inputs(f"{tmp_path}/in"), Tally(tmp_path), text_key="text", max_bad_lines=0)
    with pytest.raises(DataError, match=r"c.jsonl does not exist"):
        list(reader.run())


# --- the Hugging Face hub, as it answers

HubOf = Callable[..., str]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubOf]:
    """Serve a data set as the hub does: ``hub("README.md", name=content, ...)`` gives its address."""
    files: dict[str, bytes] = {}

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, query = urlsplit(unquote(self.path)).path, parse_qs(urlsplit(self.path).query)
            if "/resolve/" in path:
                return self.answer(files.get(path.split("/resolve/main/")[1]))
            if "/tree/" in path:
                below = path.split("/tree/main")[1].strip("/")
                return self.answer(self.tree(f"{below}/".lstrip("/"), is_deep=query.get("recursive") == ["true"]))
            return self.answer({"id": "some/set", "sha": "0" * 40, "siblings": []})

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            paths = json.loads(asked)["paths"] if asked.startswith("{") else parse_qs(asked)["paths"]
            self.answer([each for each in self.tree("", is_deep=True) if each["path"] in paths])

        def tree(self, below: str, *, is_deep: bool) -> list[dict[str, object]]:
            found: dict[str, dict[str, object]] = {}
            for name, content in files.items():
                parts = name.removeprefix(below).split("/")
                if name.startswith(below):
                    for depth in range(1, len(parts) if is_deep else min(len(parts), 2)):
                        folder = below + "/".join(parts[:depth])
                        found[folder] = {"type": "directory", "path": folder, "oid": "0"}
                    if is_deep or len(parts) == 1:
                        found[name] = {"type": "file", "path": name, "size": len(content), "oid": "0"}
            return list(found.values())

        def answer(self, content: object) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"0"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.HfFileSystem.clear_instance_cache()

    def serve(*names: str, card: str | None = None) -> str:
        files.update(dict.fromkeys(names, LINE))
        if card is not None:
            files["README.md"] = f"---\n{card}\n---\n# About\n".encode()
        return "hf://datasets/some/set"

    yield serve
    huggingface_hub.HfFileSystem.clear_instance_cache()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_data_set_of_the_hub_stands_for_its_training_files(hub, capsys):
    source = hub(
        "data/train-0.jsonl", "data/train-1.jsonl", "data/test-0.jsonl", "a/dev.jsonl", "dataset_infos.json", "b.py"
    )
    found = find_inputs(source)
    assert found.urls == (f"{source}/data/train-0.jsonl", f"{source}/data/train-1.jsonl")
    assert capsys.readouterr().err == f"note: source={source}: only its train split is read, not dev, test\n"
    with found.open(0) as opened:
        assert opened.read() == LINE
    assert find_inputs(f"{source}/data").names == ("test-0.jsonl", "train-0.jsonl", "train-1.jsonl")
    assert find_inputs(f"{source}/*/dev.jsonl").urls == (f"{source}/a/dev.jsonl",)


def test_parquet_files_of_a_data_set_come_first(hub):
    source = hub("data/a.jsonl", "data/b.jsonl", "data/c.parquet")
    assert find_inputs(source).urls == (f"{source}/data/c.parquet",)


@pytest.mark.parametrize(
    "card",
    [
        "configs: [{config_name: default, data_files: [{split: train, path: b/*}, {split: test, path: a/*}]}]",
        "configs: [{config_name: x, data_files: a/*}, {config_name: y, default: true, data_files: [b/*]}]",
        "configs: [{config_name: only, data_dir: b, data_files: '*.jsonl'}]",
        "configs: [{config_name: only, data_files: {train: [b/1.jsonl, b/2.jsonl], test: a/0.jsonl}}]",
    ],
)
def test_the_card_of_a_data_set_says_which_files_are_its_own(hub, card):
    source = hub("a/0.jsonl", "b/1.jsonl", "b/2.jsonl", card=card)
    assert find_inputs(source).urls == (f"{source}/b/1.jsonl", f"{source}/b/2.jsonl")


def test_data_sets_that_cannot_be_read_as_they_are_say_what_to_write(hub):
    two = "configs: [{config_name: en, data_files: a/*}, {config_name: fr, data_files: b/*}]"
    source = hub("a/0.jsonl", "b/1.jsonl", card=two)
    with pytest.raises(DataError, match=r"several configurations \(en, fr\) and no default: .*source='\[hf.*/a/\*\]'"):
        find_inputs(source)
    with pytest.raises(DataError, match=r"hf://datasets/some/set/nowhere matches no file"):
        find_inputs(f"{source}/nowhere")


def test_a_data_set_without_a_readable_file_names_the_hubs_conversion(hub):
    source = hub("data.tar", "load.py")
    with pytest.raises(DataError, match=r"has no file of .*source='.*some/set@refs/convert/parquet/\*/train/\*.parq"):
        find_inputs(source)
