"""A checkpoint is moved into place once, also in a folder that nodes share."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from meap.train.checkpoints.publishing import _move


def test_of_two_nodes_that_share_a_folder_one_moves_a_checkpoint_and_it_stays_whole(tmp_path):
    """The later one could remove what the first had just moved, or fail."""

    def move(source: Path) -> bool:
        try:
            _move(source, tmp_path / source.name)
        except FileNotFoundError:
            return False
        return True

    with ThreadPoolExecutor(2) as nodes:
        for number in range(300):
            source = tmp_path / ".saving" / "ba4"
            source.mkdir(parents=True)
            (source / "part").write_text(str(number))
            assert sorted(nodes.map(move, [source, source])) == [False, True]
            assert (tmp_path / "ba4" / "part").read_text() == str(number)
