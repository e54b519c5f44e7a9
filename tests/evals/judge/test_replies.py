"""Replies on disk."""

from meap.evals.judge.replies import Reply, ReplyStore


def reply(key, dollars=0.5):
    return Reply(key, f"text of {key}\nScore: 1", "judge", "2025-01-01T00:00:00+00:00", dollars)


def test_replies_and_costs_are_those_of_all_runs(tmp_path):
    path = tmp_path / "deep/judge.jsonl"
    first = ReplyStore(path)
    assert first.get("a") is None
    assert not path.exists()
    first.add(reply("a"))
    first.add_lost(0.25, "cut")
    assert (first.get("a"), first.spent) == (reply("a"), 0.75)
    second = ReplyStore(path)
    assert (second.get("a"), second.get("b"), second.spent) == (reply("a"), None, 0.75)
    second.add(reply("b"))
    assert ReplyStore(path).spent == 1.25


def test_a_line_that_was_never_finished_is_no_reply(tmp_path):
    path = tmp_path / "judge.jsonl"
    ReplyStore(path).add(reply("a"))
    path.write_text(path.read_text() + path.read_text()[:-20].replace('"a"', '"b"'))
    torn = ReplyStore(path)
    assert (torn.get("a"), torn.get("b"), torn.spent) == (reply("a"), None, 0.5)
    torn.add(reply("b"))
    torn.add(reply("c"))
    assert [ReplyStore(path).get(key) for key in "abc"] == [reply(key) for key in "abc"]
