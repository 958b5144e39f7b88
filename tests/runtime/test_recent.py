"""What is kept, and what goes first."""

from __future__ import annotations

from hyperclip.runtime.recent import Recent


def test_the_least_recently_used_goes_first():
    kept = Recent(3)
    for key in "abc":
        kept.put(key, key.upper())
    assert kept.get("a") == "A"
    kept.put("d", "D")
    assert [kept.get(key) for key in "abcd"] == ["A", None, "C", "D"] and len(kept) == 3


def test_weights_count_and_the_last_one_stays_whatever_it_weighs():
    kept = Recent(10)
    kept.put("a", 1, 4)
    kept.put("b", 2, 4)
    kept.put("a", 3, 6)  # in place of the former one
    assert (kept.get("a"), kept.get("b")) == (3, 2)
    kept.put("huge", 4, 99)
    assert (kept.get("a"), kept.get("b"), kept.get("huge")) == (None, None, 4)
    kept.drop("huge")
    kept.drop("never there")
    assert len(kept) == 0
    kept.put("c", 5, 10)
    assert len(kept) == 1 and kept.get("c") == 5
