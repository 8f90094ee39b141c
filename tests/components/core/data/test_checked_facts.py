"""Facts of contents that outlive the process that found them."""

from pathlib import Path

from components.core.data import checked_facts


def test_facts_outlive_a_kill(tmp_path: Path) -> None:
    """The next process knows each content whose line is whole, whatever a kill left behind it."""
    path = tmp_path / "states/facts.jsonl"
    with checked_facts.kept(path) as facts:
        facts.add("a", {"width": 3, "kind": "png"})
        facts.add("b", "no picture: broken")
        assert path.read_text().count("\n") == 3  # written while the process lives
    path.write_text(path.read_text() + '["c", {"wid')
    with checked_facts.kept(path) as facts:
        assert facts.get("a") == {"width": 3, "kind": "png"}
        assert facts.get("b") == "no picture: broken"
        assert facts.get("c") is None
        facts.add("c", {"width": 4})
    with checked_facts.kept(path) as facts:
        assert facts.get("c") == {"width": 4}


def test_without_a_file_nothing_is_kept() -> None:
    """Facts of one process are known to it alone."""
    with checked_facts.kept(None) as facts:
        facts.add("a", {})
        assert facts.get("a") == {}
    with checked_facts.kept(None) as facts:
        assert facts.get("a") is None


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    """Lines that a lost machine has spoiled, in whatever way, cost no more than another check of their contents."""
    path = tmp_path / "facts.jsonl"
    path.write_bytes(b'\x00\x00\n\xff["a", {}]\n7\n["b", {"width": 3}]\n')
    with checked_facts.kept(path) as facts:
        assert facts.get("a") is None
        assert facts.get("b") == {"width": 3}
