"""What a job of very many files, tasks and shards costs beside its text: is every step linear, and over in seconds?

    python benchmarks/prep_scale.py [files] [tasks]       60,000 and 10,000 unless given: SlimPajama's shape
    python benchmarks/prep_scale.py [files] [tasks] s3    to moto's S3 server, whose own time is not counted

The files are small, and each task writes two shards, so that their number and not their size is measured. A hundred
tasks are run; the others leave copies of what the first has written. Half of the files and tasks come first, then all,
each in one process. Prints processor time, wall time and the growth of resident memory at its peak (Linux), and the
ratio of both processor times: 2 where a step is linear, 1 for the hundred tasks if the size of the job costs them
nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

FILES, TASKS = 60_000, 10_000
REAL_TASKS = 100
SEQ_LEN, SHARD_SIZE = 15, "4200b"
KEYS = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}


def main(files: int, tasks: int, *, to_s3: bool) -> int:
    """Measure both sizes and print."""
    measured = []
    with tempfile.TemporaryDirectory(prefix="meap-benchmark-") as name, served(to_s3) as environment:
        write_files(Path(name), files)
        for part in (2, 1):
            remote = f"s3://benchmark/{part}" if to_s3 else f"{name}/mds{part}"
            command = [sys.executable, "-W", "ignore", __file__, "measure", name, remote]
            command += [str(files // part), str(tasks // part)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
            measured.append(json.loads(done.stdout.splitlines()[-1]))
    half, whole = measured
    print(f"{files:,} files, {tasks:,} tasks, {whole.pop('shards'):,} shards; half of all {half.pop('shards'):,}\n")
    for step, (processor, wall, memory) in whole.items():
        ratio = processor / half[step][0] if half[step][0] else float("nan")
        print(f"{step:<32}{processor:>8.2f} s of processor {wall:>8.2f} s {memory:>6.2f} GB   half: {ratio:.1f}")
    return 0


def write_files(folder: Path, files: int) -> None:
    """Documents of JSON lines, one per file, in folders of a tenth of them, and a tokenizer."""
    from meap.prep.sample import train_sample_tokenizer, write_sample_corpus
    from meap.synthetic import generate_document

    corpus = write_sample_corpus(folder / "corpus", megabytes=1, num_files=1)
    train_sample_tokenizer(corpus, folder / "tokenizer", vocab_size=512)
    text = generate_document(0, 0).text[:1000]
    for number in range(files):
        path = folder / "in" / f"{number * 10 // files}" / f"{number:06}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": f"{number} {text}"}) + "\n")


def measure(folder: str, remote: str, files: int, tasks: int) -> dict[str, Any]:
    """All steps of a job, in this process."""
    from meap.config import DataConfig, PrepConfig, load_config
    from meap.data import build_loader, open_shards
    from meap.data.loader import close_loaders
    from meap.prep.audit.metadata import look_at
    from meap.prep.audit.places import find_data_sets
    from meap.prep.corpora import resolve
    from meap.prep.preparation import open_job
    from meap.prep.publish import publish
    from meap.prep.summary import summary
    from meap.tokenizer import load_tokenizer

    links = Path(folder, f"in{files}")
    links.mkdir()
    for path in sorted(Path(folder, "in").rglob("*.jsonl"))[:files]:
        (links / path.name).symlink_to(path)
    keys = [f"source={links}", f"tokenizer.name={folder}/tokenizer", f"seq_len={SEQ_LEN}", f"shard_size={SHARD_SIZE}"]
    config = load_config(
        PrepConfig, None, [*keys, f"tasks={tasks}", f"remote={remote}", "heldout_ratio=0", "workers=1"]
    )
    figures: dict[str, Any] = {}
    with watched("listing the files", figures):
        resolved, inputs = resolve(config)
    tokenizer = load_tokenizer(resolved.tokenizer)
    with ExitStack() as stack:
        with watched("claiming a new place", figures):
            job = stack.enter_context(open_job(resolved, inputs, tokenizer))
        run_tasks(job, figures)
    with ExitStack() as stack:
        with watched("resuming the whole job", figures):
            job = stack.enter_context(open_job(resolved, inputs, tokenizer))
        assert len(job.completed) == tasks
        with watched("publishing", figures):
            publish(job)
        with watched("the summary", figures):
            summary(job)
    with watched("verify, before it reads shards", figures):
        (data_set,) = find_data_sets(remote)
        findings: list[Any] = []
        split = look_at(data_set, "train", findings)
        assert not findings
    with watched("opening for training", figures):
        data = DataConfig(remote=remote, seq_len=SEQ_LEN, num_canonical_nodes=4, num_workers=0)
        cache, shards = Path(folder, f"cache{files}"), open_shards(data, "train")
        loader = build_loader(
            data, shards, rule=None, seed=0, global_batch_size=8, world_size=1, cache_dir=cache, shuffle=True
        )
        next(iter(loader))
    close_loaders()
    return figures | {"shards": len(split.tasks)}


def run_tasks(job: Any, figures: dict[str, Any]) -> None:
    """Run the first tasks; the others leave behind what the first has left, under names of their own."""
    from meap.mds.index import shard_name
    from meap.places.folder import open_filesystem
    from meap.prep.executors.local import LocalExecutor
    from meap.prep.reader import ReadDocuments
    from meap.prep.shards import WriteShards
    from meap.prep.steps import PackRows
    from meap.prep.task_records import task_record_name

    with watched("steps and executor", figures):
        steps = [ReadDocuments.of(job), PackRows.of(job), WriteShards.of(job)]
        executor = LocalExecutor(steps, job)
        executor.run_task(0)
    with watched(f"{REAL_TASKS} tasks", figures):
        for task in range(1, REAL_TASKS + 1):
            executor.run_task(task)
    first = shard_name(0, 0).partition(".00000.mds")[0]
    record = (job.folder.read(task_record_name(0)) or b"").decode()
    shards = [name for name in job.folder.sizes("train") if name.startswith(f"{first}.")]
    contents = {name: job.folder.read(f"train/{name}") for name in shards}
    filesystem, root = open_filesystem(job.folder.url)
    for task in range(REAL_TASKS + 1, job.num_tasks):
        own = shard_name(task, 0).partition(".00000.mds")[0]
        content = record.replace(f'"{first}.', f'"{own}.').replace('"task": 0', f'"task": {task}')
        filesystem.pipe_file(f"{root}/{task_record_name(task)}", content.encode())
        for name in shards:
            filesystem.pipe_file(f"{root}/train/{name.replace(first, own)}", contents[name])


@contextmanager
def watched(step: str, figures: dict[str, Any]) -> Iterator[None]:
    """Measure time and memory of the body."""
    Path("/proc/self/clear_refs").write_text("5")
    processor, wall, memory = time.process_time(), time.monotonic(), resident("VmRSS")
    yield
    figures[step] = time.process_time() - processor, time.monotonic() - wall, resident("VmHWM") - memory


def resident(name: str) -> float:
    """A line of /proc/self/status, in gigabytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1e6


@contextmanager
def served(to_s3: bool) -> Iterator[dict[str, str]]:
    """Run an S3 server with a bucket, if one is asked for; gives the environment that leads to it."""
    if not to_s3:
        yield {}
        return
    import boto3

    command = [sys.executable, "-W", "ignore", __file__, "serve"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = f"http://127.0.0.1:{process.stdout.readline().decode().strip()}"
        os.environ.update(KEYS)
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="benchmark")
        yield {"AWS_ENDPOINT_URL": url, "S3_ENDPOINT_URL": url}
    finally:
        process.stdin.close()
        process.wait()


def serve() -> None:
    """An S3 server of moto's until the input ends; its port comes first."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    with suppress(EOFError):
        sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve()
    elif sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))))
    else:
        sizes = [int(float(each)) for each in sys.argv[1:] if each != "s3"] or [FILES, TASKS]
        sys.exit(main(sizes[0], sizes[1], to_s3="s3" in sys.argv[1:]))
