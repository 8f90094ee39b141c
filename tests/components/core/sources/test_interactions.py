"""A table of interactions as records: windows, splits, equal times, and bad rows."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from components.core.errors import InputError
from components.core.sources.interactions import Rule, check, records
from components.core.sources.raw_records import RawRecord

OTHERS = [f"{user},other{item},{item}" for user in ("z1", "z2") for item in range(3)]  # without them nobody validates


def table(folder: Path, rows: list[str], header: str = "user,item,time", others: list[str] = OTHERS) -> str:
    path = folder / "seen.csv"
    path.write_text("\n".join([header, *rows, *(row + ",5" * (header.count(",") - 2) for row in others), ""]))
    return str(path)


def parts(found: list[RawRecord]) -> list[tuple[str, list[str], list[str]]]:
    """Split, history and what follows of each record."""
    return [
        (one.split, json.loads(one.content or b"{}")["items"], json.loads(one.label)["items"])
        for one in found
        if not one.fault and json.loads(one.content or b"{}")["user"] not in ("z1", "z2")
    ]


def test_the_last_item_tests_and_the_one_before_validates(tmp_path: Path) -> None:
    """With the rule `last`, what is left of each user trains, and every history ends before what follows."""
    source = table(tmp_path, [f"u,{item},{time}" for time, item in enumerate("abcd")])
    assert parts([*records(source, "last", 10)]) == [
        ("train", ["a"], ["a", "b"]),
        ("validation", ["a", "b"], ["c"]),
        ("test", ["a", "b", "c"], ["d"]),
    ]


@pytest.mark.parametrize(("items", "splits"), [("a", ["train"]), ("ab", ["train", "test"])])
def test_users_with_few_items_train_first(tmp_path: Path, items: str, splits: list[str]) -> None:
    """A single interaction trains; of two, the later one tests."""
    source = table(tmp_path, [f"u,{item},{time}" for time, item in enumerate(items)])
    assert [split for split, _, _ in parts([*records(source, "last", 10)])] == splits


def test_long_histories_train_in_windows(tmp_path: Path) -> None:
    """Every item of the training follows once, half a window at a time, behind as many as the network sees."""
    source = table(tmp_path, [f"u,i{time},{time}" for time in range(9)])
    found = parts([*records(source, "last", 4)])
    assert found[:4] == [
        ("train", ["i0"], ["i0", "i1"]),
        ("train", ["i0", "i1", "i2"], ["i2", "i3"]),
        ("train", ["i1", "i2", "i3", "i4"], ["i4", "i5"]),
        ("train", ["i2", "i3", "i4", "i5"], ["i6"]),
    ]
    assert found[5] == ("test", [f"i{n}" for n in range(8)], ["i8"])


def test_full_windows_stay_when_more_items_come(tmp_path: Path) -> None:
    """A week later the records of full windows are the same bytes, so that their activations are still cached."""
    before, after = (
        {
            one.content
            for one in records(table(tmp_path, [f"u,i{n},{n}" for n in range(count)]), "last", 6)
            if "u" in one.uri.partition("user=")[2]
        }
        for count in (9, 12)
    )
    assert len(before & after) == 2


def test_equal_times_are_ordered_alike_in_every_export(tmp_path: Path) -> None:
    """Items of one moment keep their order when the rows are shuffled, and it is not that of their names."""
    rows = [f"u,{item},{item // 6}" for item in range(30)]
    one = parts([*records(table(tmp_path, rows), "last", 50)])
    random.Random(1).shuffle(rows)
    assert parts([*records(table(tmp_path, rows), "last", 50)]) == one
    last = [*one[-1][1], *one[-1][2]]
    assert last != sorted(last, key=int)
    assert sorted(last[:6], key=int) == [str(n) for n in range(6)]


def test_moments_tell_which_items_share_a_time(tmp_path: Path) -> None:
    """A training record says which of its items, and of what follows, may stand in any order."""
    source = table(tmp_path, ["u,a,1", "u,b,2", "u,c,2", "u,d,3", "u,e,4", "u,f,5"])
    first = next(iter(records(source, "last", 10)))
    assert json.loads(first.content or b"")["moments"] == [0, 1, 1, 2]


def test_time_parts_all_users_at_the_same_moments(tmp_path: Path) -> None:
    """With the rule `time` nothing that trains is as late as what validates, and new users are marked."""
    rows = [f"u{time // 5:02d},i{time},{time}" for time in range(100)]
    found = [*records(table(tmp_path, rows, others=[]), "time", 50)]
    assert Counter(one.split for one in found) == {"train": 16, "validation": 2, "test": 2}
    assert {one.metadata["users"] for one in found[16:]} == {"new"}
    assert json.loads(found[-1].label) == {"items": ["i99"], "new": True}


def test_of_a_repeated_item_the_first_counts(tmp_path: Path) -> None:
    """An item that a user has already is nothing to recommend."""
    source = table(tmp_path, ["u,a,1", "u,b,2", "u,a,3", "u,c,4"])
    assert parts([*records(source, "last", 10)])[-1] == ("test", ["a", "b"], ["c"])


def test_bad_rows_are_a_share_of_rows(tmp_path: Path) -> None:
    """A record counts as the rows that it is made of, those before a validated or tested item included."""
    rows = [f"u{time % 4},i{time},{time}" for time in range(100)]
    for rule in ("last", "time"):
        found = [*records(table(tmp_path, [*rows, ",a,1"], others=[]), rule, 7)]  # type: ignore[arg-type]
        assert sum(one.rows for one in found) == 101


@pytest.mark.parametrize(
    ("rule", "rows", "sentence"),
    [
        ("time", ["u,a,1", "u,b,1", "v,c,1"], r"The 3 interactions of .* have too few different times \(1\)"),
        ("time", ["u,a,1", "v,a,2", "w,a,3"], "are with one item, 'a': there is nothing to choose from"),
        ("time", [f"u,i{n},{n}" for n in range(30)], "1 of the 1 users of .* an interaction to validate with"),
        (
            "last",
            [f"u{n},i{n},{n}" for n in range(9)],
            "0 of the 9 users of .* validate with, and at least 2 are needed",
        ),
        ("last", ["u,a,1,2", "u,b,2,2"], "holds no interactions with a rating of at least 3"),
    ],
)
def test_too_few_interactions_are_refused(rule: Rule, rows: list[str], sentence: str, tmp_path: Path) -> None:
    """One time, one item, one user, users with one interaction each, and low ratings alone are told in a sentence."""
    rated = rows[0].count(",") > 2
    source = table(tmp_path, rows, "user,item,time,rating" if rated else "user,item,time", [])
    with pytest.raises(InputError, match=sentence):
        list(records(source, rule, 10, 3.0 if rated else -math.inf))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",a,1", "no user"),
        ("u,,1", "no item"),
        ("u,a,", "no time"),
        ("u,a,soon", "not a time: 'soon'"),
        ("u,a,inf", "not a time: 'inf'"),
        ("u,a,2024-13-01", "not a time: '2024-13-01'"),
        ("u,a", "not as many cells as columns: line 5 has 2, the header 3"),
    ],
)
def test_bad_rows_have_reasons(tmp_path: Path, row: str, reason: str) -> None:
    """A row that can't be used is a record with its reason; the others stay."""
    found = [*records(table(tmp_path, ["u,a,1", "u,b,2", "u,c,3", row]), "last", 10)]
    assert [one.fault for one in found if one.fault] == [reason]
    assert parts(found)[-1] == ("test", ["a", "b"], ["c"])


def test_a_line_of_json_may_lack_a_key(tmp_path: Path) -> None:
    """What it lacks is the reason."""
    lines = [json.dumps({"user": f"u{n % 3}", "item": n, "time": n}) for n in range(12)]
    (tmp_path / "seen.jsonl").write_text("\n".join([*lines, '{"user": "u0"}']))
    assert [one.fault for one in records(str(tmp_path / "seen.jsonl"), "last", 5) if one.fault] == ["no item"]


def test_times_are_numbers_or_iso_8601(tmp_path: Path) -> None:
    """Dates sort by what they mean, in CSV and in Parquet; columns may have their other names."""
    source = table(
        tmp_path, ["u,b,2024-01-02T00:00:00+05:00", "u,a,2024-01-01", "u,c,2024-01-02"], "user_id,item_id,timestamp"
    )
    assert parts([*records(source, "last", 10)])[-1] == ("test", ["a", "b"], ["c"])
    days = pd.to_datetime(["2024-01-03", "2024-01-02", "2024-01-01"])
    frame = pd.DataFrame({"user": [7] * 3 + [8] * 3, "item": [1.0, 2.0, 3.0] * 2, "time": [*days, *days]})
    frame.to_parquet(tmp_path / "seen.parquet")
    assert parts([*records(str(tmp_path / "seen.parquet"), "last", 10)])[-1] == ("test", ["3", "2"], ["1"])


def test_low_ratings_are_passed_over(tmp_path: Path) -> None:
    """With a least rating, a missing one is a fault and a lower one is nothing."""
    source = table(tmp_path, ["u,a,1,5", "u,b,2,1", "u,c,3,4", "u,d,4,"], "user,item,time,rating")
    found = [*records(source, "last", 10, 3)]
    assert [one.fault for one in found if one.fault] == ["no rating"]
    assert parts(found)[-1] == ("test", ["a"], ["c"])


@pytest.mark.parametrize("before", ["2024-01-03", "2024-01-03T00:00:00Z", "1704240000"])
def test_what_is_recent_is_passed_over(before: str, tmp_path: Path) -> None:
    """Interactions at a time or later don't count, whichever way it is written; nor do they for the split."""
    source = table(tmp_path, [f"u,{item},2024-01-0{day + 1}" for day, item in enumerate("abcd")])
    assert parts([*records(source, "last", 10, before=before)]) == [
        ("train", [], ["a"]),
        ("test", ["a"], ["b"]),
    ]


def test_a_past_without_interactions_is_refused(tmp_path: Path) -> None:
    """Where all are recent, the sentence names the time, and the lowest rating too if there is one."""
    source = table(tmp_path, ["u,a,2024-01-01,5", "u,b,2024-01-02,5"], "user,item,time,rating", [])
    with pytest.raises(InputError, match="holds no interactions before 2024-01-01. Use another --option before, or"):
        list(records(source, "last", 10, before="2024-01-01"))
    with pytest.raises(InputError, match="of at least 6 before 2025. Use another --option least_rating or --option be"):
        list(records(source, "last", 10, 6, "2025"))


def test_a_table_of_mostly_bad_rows_is_its_faults(tmp_path: Path) -> None:
    """Their share is what stops the run, not the few times of the others."""
    source = table(tmp_path, ["u,a,1", "u,,2", "u,,3"], others=[])
    assert [one.fault for one in records(source, "time", 10)] == ["no item", "no item"]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("seen.csv", "", "holds no interactions"),
        ("seen.csv", "user;item;time\nu;a;1\n", r"no column 'user' \(it has user;item;time\)"),
        ("seen.parquet", "", "is empty"),
        ("seen.parquet", "PAR1 and no more", "is cut off"),
        ("seen.parquet", "user,item,time\n", "is not a Parquet file"),
        ("seen.csv", "user,item,user\nu,a,v\n", "has two columns 'user'"),
        ("seen.csv", "user,item\nu,a\n", "no column 'time'"),
        ("seen.csv", "user,user_id,item,time\nu,v,a,1\n", "both 'user' and 'user_id'"),
        ("seen.csv", "user,item,time\n", "holds no interactions"),
        ("seen.txt", "user,item,time\n", "not a table of interactions"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    """What is no table of interactions is refused by its name, its content or its first row."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=sentence):
        check(str(tmp_path / name))
    with pytest.raises(InputError, match="no file"):
        check(str(tmp_path / "other.csv"))


def test_a_parquet_file_may_lack_values(tmp_path: Path) -> None:
    """Missing numbers, times and texts are faults, not users or items of that name."""
    frame = pd.DataFrame(
        {"user": [f"u{n % 3}" for n in range(12)], "item": [*range(12)], "time": [*map(float, range(12))]}
    )
    frame.loc[3, "time"] = float("nan")
    frame.loc[4, "user"] = None
    frame["item"] = frame["item"].where(frame["item"] != 5)
    frame.to_parquet(tmp_path / "seen.parquet")
    faults = [one.fault for one in records(str(tmp_path / "seen.parquet"), "last", 5) if one.fault]
    assert faults == ["no time", "no user", "no item"]


def test_features_of_what_follows_are_in_the_record(tmp_path: Path) -> None:
    """A cell may hold several; those of an item's first interaction count, so that records stay when others differ."""
    rows = ["u,a,1,x|y,1990", "u,b,2,,", "u,c,3,x,", "v,a,0,z,", "v,c,9,q,q", "v,d,8,,1991"]
    others = [f"{row},," for row in OTHERS]
    source = table(tmp_path, [*rows, *others], "user,item,time,item_kind,item_year", [])
    found = [json.loads(one.content or b"").get("features") for one in records(source, "last", 10)]
    assert found[:6] == [
        {"a": ["kind=z"]},
        None,
        {"c": ["kind=x"]},
        {"a": ["kind=z"]},
        {"d": ["year=1991"]},
        {"c": ["kind=x"]},
    ]
    lists = [{"user": user, "item": item, "time": item, "item_kind": ["x", "y"]} for user in "uv" for item in range(3)]
    (tmp_path / "seen.jsonl").write_text("\n".join(map(json.dumps, lists)))
    first = next(records(str(tmp_path / "seen.jsonl"), "last", 10))
    assert json.loads(first.content or b"")["features"] == {"0": ["kind=x", "kind=y"]}
