"""What the page is made of: text that stays text, numbers that fit, films within the budget."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline.results import page, page_data
from offline.results.collected import collect
from offline.results.page_films import films
from offline.results.page_html import element, script_json
from offline.results.reporting import Report, make_report
from offline.results.run_files import LearningCurve
from tests.report_pages import FIGURE, HOSTILE, write_gif
from tests.synthetic_runs import constant_returns, write_returns, write_run, write_study

RETURNS = constant_returns(9.0, 7.0, 6.0)
LARGE = 10**9  # more than any of these pages needs


def report_on(*folders: Path) -> Report:
    return make_report(folders, (), np.random.default_rng(0))


def data_of(*folders: Path, budget: int = LARGE) -> dict[str, Any]:
    """What the scripts read, as they read it."""
    told: dict[str, Any] = json.loads(script_json(page_data.page_data(report_on(*folders), budget)))
    return told


def film_names(run_folder: Path, *sizes: int) -> None:
    """GIFs of so many bytes in the run's play/, by their beginning alone."""
    play = run_folder / "play"
    play.mkdir()
    for name, size in zip(("train", "val", "test"), sizes, strict=False):
        (play / f"{name}.gif").write_bytes(b"GIF89a".ljust(size, b"\0"))


def test_text_and_attributes_are_escaped_and_markup_is_not_escaped_twice() -> None:
    inner = element("b", "<i> & ")
    told = element("p", inner, '"', title='">', class_="x", hidden=True, aria_label=None)
    assert told == ('<p title="&quot;&gt;" class="x" hidden><b>&lt;i&gt; &amp; </b>&quot;</p>')


def test_no_json_can_end_or_begin_a_script() -> None:
    hostile = ["</script>", "<!--", "<script>", "]]>", "\u2028", "\udcff", "&amp;"]
    written = script_json({"text": hostile})
    assert not re.search("[<>&\u2028]", written)
    assert written.isascii()
    assert json.loads(written) == {"text": hostile}


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        script_json([float("nan")])


def test_the_page_has_no_text_of_a_run_as_markup(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, meta={"dataset": [f"</script>{HOSTILE}"]})
    write_run(tmp_path, None, xpid="hostile").rename(tmp_path / f"left out {HOSTILE}")
    told = page.page(report_on(tmp_path), [FIGURE])
    assert "<img src=x" not in told
    assert "onerror" in told
    # One script in the head, two blocks of data, one script at the end.
    assert told.count("</script>") == 4


def test_levels_have_the_mean_of_their_episodes(tmp_path: Path) -> None:
    folder = write_run(tmp_path, RETURNS, epochs=1)
    write_episodes_on(folder, {"train": [(7, 10.0), (3, 0.0), (7, 5.0)], "test": [(9, 2.0)]})
    ((run,), levels) = (data_of(tmp_path)["runs"], None)
    levels = run["details"]["levels"]
    assert levels["played"] == {"sampled": [[3, 7], [0, 7.5], [1, 2]]}
    assert (levels["count"], levels["cells"]) == (200, True)
    assert run["range"] == [5, 10]


def write_episodes_on(folder: Path, levels: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """An evaluation with these levels and returns."""
    every = {split: levels.get(split, [(0, 1.0)]) for split in ("train", "validation", "test")}
    write_returns(folder, "evaluate", {s: [r for _, r in plays] for s, plays in every.items()})
    rows = [f"{s},{level},{r},9" for s, plays in every.items() for level, r in plays]
    text = "\n".join(["split,level_seed,return,length", *rows])
    (folder / "evaluate_episodes.csv").write_text(f"{text}\n")


def test_of_very_many_levels_only_those_played_are_drawn(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, num_levels=100_000)
    (run,) = data_of(tmp_path)["runs"]
    levels = run["details"]["levels"]
    assert (levels["count"], levels["cells"]) == (100_000, False)


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    epochs = np.arange(1.0, 1001.0)
    values = np.sqrt(epochs)
    told = page_data._curve(
        LearningCurve(epochs, values, dict.fromkeys(("train", "validation", "test"), values))
    )
    assert told["rows"] == 1000
    assert len(told["epoch"]) == len(told["loss"]) == page_data.MAX_POINTS
    assert (told["epoch"][0], told["epoch"][-1]) == (1, 1000)
    assert (told["test"][0], told["test"][-1]) == (1, 31.623)
    assert set(np.diff(told["epoch"])) <= {4, 5}


def test_what_was_not_logged_is_a_gap(tmp_path: Path) -> None:
    folder = write_run(tmp_path, RETURNS, epochs=2, meta={"epochs": 2})
    header = "epoch,train_loss,train_rets_mean,val_rets_mean,test_rets_mean"
    (folder / "logs.csv").write_text(f"{header}\n1,inf,,3,4\n2,0.000123456,2,3,4\n")
    (run,) = data_of(tmp_path)["runs"]
    assert run["details"]["curve"]["loss"] == [None, 0.00012346]
    assert run["details"]["curve"]["train"] == [None, 2]


def test_settings_are_told_by_how_they_differ_from_those_of_most_runs(tmp_path: Path) -> None:
    for seed, rate in ((1, 0.001), (2, 0.001), (3, 0.0005)):
        write_run(tmp_path, RETURNS, seed=seed, lr=rate)
    told = data_of(tmp_path)
    assert told["common"]["lr"] == "0.001"
    assert told["common"]["seed"] == 3
    differing = {run["seed"]: set(run["details"]["settings"]) for run in told["runs"]}
    assert differing == {1: {"seed", "xpid"}, 2: {"seed", "xpid"}, 3: {"seed", "xpid", "lr"}}
    (odd,) = (run for run in told["runs"] if run["seed"] == 3)
    assert odd["details"]["settings"]["lr"] == "0.0005"


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for place, seed in (("a", 1), ("b", 2)):
        write_run(tmp_path / place, RETURNS, xpid="same", seed=seed)
    write_run(tmp_path / "a", RETURNS, xpid="other", seed=3)
    names = {run["seed"]: run["id"] for run in data_of(tmp_path)["runs"]}
    assert names == {
        1: str(tmp_path / "a/coinrun/same"),
        2: str(tmp_path / "b/coinrun/same"),
        3: "coinrun/other",
    }


def test_without_room_for_all_the_runs_of_chosen_settings_have_their_details(
    tmp_path: Path,
) -> None:
    for seed in (1, 2):
        write_run(tmp_path, constant_returns(9.0, 5.0, 4.0), seed=seed, lr=0.001)
        write_run(tmp_path, constant_returns(8.0, 7.0, 6.0), seed=seed, lr=0.1)
    whole = data_of(tmp_path)
    told = data_of(tmp_path, budget=len(script_json(whole)) - 100)["runs"]
    assert len(told) == 4
    assert [run["label"] for run in told if "details" not in run] == ["lr 0.001"]
    told = data_of(tmp_path, budget=1)["runs"]
    assert not any("details" in run for run in told)


def test_films_are_embedded_in_order_until_the_room_is_used(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, RETURNS, seed=seed) for seed in (1, 2)]
    film_names(folders[0], 60_000, 60_000, 60_000)
    film_names(folders[1], 60_000)
    runs = collect([tmp_path]).runs
    # They are 80,000 bytes of base64 each: room for the first of each run, and one more.
    first, second = films(runs, [0, 1], 250_000)
    assert [(f.path.name, f.title, bool(f.data)) for f in first] == [
        ("train.gif", "training levels", True),
        ("val.gif", "validation levels", True),
        ("test.gif", "unseen test levels", False),
    ]
    assert first[2].reason == "0.1 MB, for which the page has no room"
    assert [base64.b64decode(f.data)[:6] for f in second] == [b"GIF89a"]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("train_best_median_worst.gif", "training levels: best, median and worst episode"),
        ("test_levels.png", "unseen test levels: first frames"),
        ("train_of_mine.gif", "train_of_mine"),
        ("holiday.mp4", "holiday"),
    ],
)
def test_a_film_is_called_what_it_shows(tmp_path: Path, name: str, title: str) -> None:
    folder = write_run(tmp_path, RETURNS)
    (folder / "play").mkdir()
    (folder / "play" / name).touch()
    ((film,),) = films(collect([tmp_path]).runs, [0], LARGE)
    assert (film.title, film.data) == (title, "")
    assert film.reason == f"no {name.rpartition('.')[2].upper()} file"


def test_other_files_and_folders_of_play_are_passed_by(tmp_path: Path) -> None:
    folder = write_run(tmp_path, RETURNS)
    (folder / "play" / "test.gif").mkdir(parents=True)
    (folder / "play" / "train.svg").write_text("<svg/>")
    write_gif(folder / "play" / "train.gif")
    (told,) = films(collect([tmp_path]).runs, [0], LARGE)
    assert [(f.path.name, f.reason) for f in told] == [("train.gif", ""), ("test.gif", "no file")]


def test_many_films_leave_the_page_below_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [write_run(tmp_path, RETURNS, seed=seed) for seed in (1, 2, 3)]
    for folder in folders:
        film_names(folder, 200_000, 200_000, 200_000)
    monkeypatch.setattr(page, "MAX_BYTES", 1_000_000)  # films are 266,668 each
    told = page.page(report_on(tmp_path), ())
    assert 600_000 < len(told.encode()) < 1_000_000
    listed = json.loads(told.split('id="films">')[1].split("</script>")[0])
    absent = [film for of_run in listed.values() for film in of_run if film["reason"]]
    assert 0 < len(absent) < 9
    assert all(film["path"].endswith(".gif") for film in absent)


def test_many_figures_are_folded_after_the_first_four(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS)
    told = page.page(report_on(tmp_path), [FIGURE._replace(name=f"f{i}") for i in range(6)])
    in_sight, folded = told.split("<summary>2 more figures</summary>")
    assert re.findall(r'id="figure-(f\d)"', in_sight) == ["f0", "f1", "f2", "f3"]
    assert re.findall(r'id="figure-(f\d)"', folded) == ["f4", "f5"]


def test_many_figures_leave_the_page_below_its_limit(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS)
    large = FIGURE.svg.replace("<rect", f"<!--{1_000_000 * '.'}--><rect")
    figures = [FIGURE._replace(name=f"f{i}", svg=large) for i in range(20)]
    told = page.page(report_on(tmp_path), [*figures, FIGURE])
    assert 4_000_000 < len(told.encode()) < 6_000_000
    shown = ["0", "1", "2", "3"]
    assert re.findall(r'aria-describedby="caption-f(\d+)"', told) == shown
    named = re.findall(r'no room for this figure: see <a href="figures/f(\d+).svg">', told)
    assert [*shown, *named] == [f"{i}" for i in range(20)]
    assert 'aria-describedby="caption-iqm"' in told
    assert told.count("<figcaption") == 21


def test_one_seed_has_no_interval_and_the_page_says_so(tmp_path: Path) -> None:
    write_study(tmp_path, games=["coinrun"], methods=["bc", "cql"], seeds=[1], episodes=5)
    told = page.page(report_on(tmp_path), ())
    assert "One seed only: nothing tells how other seeds would do" in told
    assert "no interval" in told
    assert not re.search(r'class="interval">\[', told)


def test_the_page_says_what_came_out(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path, constant_returns(9.0, 7.0, 7.5), seed=seed, algo="bc")
        write_run(tmp_path, constant_returns(8.0, 6.0, 6.0), seed=seed, algo="cql")
    told = re.sub(r"<[^>]*>", "", page.headline(report_on(tmp_path)))
    # coinrun: 5 .. 10, so 7.5 is 0.5, 9 is 0.8 and 6 is 0.2; seeds do not differ.
    # Two wins of two: 0.025 ** (1 / 2).
    assert (
        "On unseen levels BC scores highest: 0.50 [0.50, 0.50], where 1 is perfect play, and on "
        "training levels 0.80 [0.80, 0.80]. Next comes CQL with 0.20 [0.20, 0.20]. A run of BC "
        "beats one of CQL with probability 1.00 [0.16, 1.00], which does not tell the two apart."
    ) in told
    assert told.startswith("2 methods on coinrunRuns4MethodsBC, CQLGamescoinrunSeeds2Newest run2")


def test_the_page_says_so_where_seeds_do_not_tell_the_best_two_apart(tmp_path: Path) -> None:
    for seed, (bc, cql) in enumerate([(7.5, 6.0), (7.0, 7.25)]):
        write_run(tmp_path, constant_returns(9.0, 7.0, bc), seed=seed, algo="bc")
        write_run(tmp_path, constant_returns(8.0, 6.0, cql), seed=seed, algo="cql")
    told = re.sub(r"<[^>]*>", "", page.headline(report_on(tmp_path)))
    # BC wins 3 of the 4 pairs.
    assert re.search(r"with probability 0\.75 \[.*\], which does not tell the two apart\.", told)


def test_a_single_level_has_a_map_of_one(tmp_path: Path) -> None:
    write_run(tmp_path, {"train": [9.0, 7.0]}, meta={"level": 40})
    (run,) = data_of(tmp_path)["runs"]
    assert run["details"]["levels"]["count"] == 1
    assert "No method has a score on test levels" in page.page(report_on(tmp_path), ())


def test_of_very_many_runs_left_out_the_page_lists_the_first(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS)
    for i in range(1003):
        broken = tmp_path / f"broken{i:04}"
        broken.mkdir()
        (broken / "meta.json").touch()
    told = page.page(report_on(tmp_path), ())
    assert "1,003 runs or files do not count" in told
    assert told.count("meta.json is broken") == 1000
    assert "3 more are in left_out.csv." in told
