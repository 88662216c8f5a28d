"""What a film shows: the very play of the evaluation, drawn to the pixel."""

from __future__ import annotations

import csv
import io
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from common import evaluation
from common.envs import ProcgenVectorEnv
from common.rollout import EpisodeResult
from offline import evaluate_offline_agent
from offline.agents import load_agent
from offline.results import recording, recording_pictures
from offline.results.figures import COLOURS
from offline.results.recording import Play, RecordedEpisode, best_median_and_worst, record
from offline.results.recording_pictures import HEIGHT, PLAY, WIDTH, Artist, moments
from offline.results.recording_video import FINAL_PICTURES, encode_gif, encode_mp4, find_ffmpeg
from tests.offline_commands import CPU, GAME, FinishedRun, flags

EPISODES = 5
SPLITS = ("train", "validation", "test")
WHITE, GREY, TRACK = (255, 255, 255), (0xA8, 0xB0, 0xB8), (0xEE, 0xEE, 0xEE)
BLUE = tuple(bytes.fromhex(COLOURS["train"][1:]))


def recorded(
    finished: FinishedRun, num_episodes: int = EPISODES, **acting: Any
) -> tuple[evaluation.Results, dict[str, list[RecordedEpisode]]]:
    """All episodes of an evaluation of the finished run."""
    agent, contents = load_agent(finished.folder / "final_model.pt", CPU, acting)
    everything = {split: {i: f"number {i}" for i in range(num_episodes)} for split in SPLITS}
    return record(agent.eval(), contents["settings"], num_episodes, everything)


def results_of(episodes: list[RecordedEpisode]) -> list[EpisodeResult]:
    return [
        EpisodeResult(episode.level_seed, sum(episode.play.rewards), len(episode.play.actions))
        for episode in episodes
    ]


def an_episode(rewards: list[float], level_seed: int = 7, seed: int = 0) -> RecordedEpisode:
    """Coarse random frames; each step takes action 7, whose probability is a half."""
    generator = np.random.default_rng(seed)
    steps = len(rewards)
    frames = generator.integers(0, 256, (steps, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    probabilities = np.zeros(15)
    probabilities[[7, 0, 14]] = 0.5, 0.25, 0.25
    play = Play(list(frames), [probabilities] * steps, [7] * steps, rewards)
    return RecordedEpisode("best of 3", level_seed, play)


# The play


@pytest.mark.parametrize("most_envs", [128, 2])
def test_recorded_play_is_the_play_of_the_evaluation(
    finished_copy: FinishedRun, monkeypatch: pytest.MonkeyPatch, most_envs: int
) -> None:
    for module in (evaluation, recording):  # 2: environments play several episodes
        monkeypatch.setattr(module, "MAX_ENVS", most_envs)
    command = flags(finished_copy.settings, save_path=finished_copy.save_path)
    assert evaluate_offline_agent.main([*command, f"--num_final_episodes={EPISODES}"]) == 0
    with open(finished_copy.folder / "evaluate_episodes.csv", newline="") as file:
        rows = [
            (row["split"], int(row["level_seed"]), float(row["return"]), int(row["length"]))
            for row in csv.DictReader(file)
        ]
    results, episodes = recorded(finished_copy)
    assert [(split, *e) for split in SPLITS for e in results_of(episodes[split])] == rows
    assert [(split, *e) for split in SPLITS for e in results[split]] == rows
    assert [e.caption for e in episodes["test"]] == [f"number {i}" for i in range(EPISODES)]


def test_the_recorded_actions_played_on_the_level_alone_give_the_recorded_frames_and_rewards(
    finished_run: FinishedRun,
) -> None:
    _, episodes = recorded(finished_run, 2)
    for split in SPLITS:
        for episode in episodes[split]:
            env = ProcgenVectorEnv(GAME, 1, start_level=episode.level_seed, num_levels=1)
            seen, _ = env.reset()
            for step, action in enumerate(episode.play.actions):
                np.testing.assert_array_equal(seen[0], episode.play.frames[step])
                seen, rewards, dones, _, _ = env.step(np.array([action]))
                assert rewards[0] == episode.play.rewards[step]
                assert dones[0] == (step == len(episode.play.actions) - 1)
            env.close()


def test_recording_some_episodes_keeps_these_alone_and_changes_no_result(
    finished_run: FinishedRun,
) -> None:
    results, episodes = recorded(finished_run)
    agent, contents = load_agent(finished_run.folder / "final_model.pt", CPU)
    chosen = {"test": {3: "fourth", 1: "second"}}
    again, some = record(agent.eval(), contents["settings"], EPISODES, chosen)
    assert again == results
    assert list(some) == ["test"]
    assert [episode.caption for episode in some["test"]] == ["fourth", "second"]
    for episode, index in zip(some["test"], (3, 1), strict=True):
        same = episodes["test"][index]
        assert (episode.level_seed, episode.play.actions) == (same.level_seed, same.play.actions)
        np.testing.assert_array_equal(episode.play.frames, same.play.frames)


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_recorded_probabilities_are_those_of_the_actions(
    finished_run: FinishedRun, deterministic: bool
) -> None:
    _, episodes = recorded(finished_run, 3, deterministic=deterministic)
    plays = [episode.play for split in SPLITS for episode in episodes[split]]
    probabilities = np.concatenate([play.probabilities for play in plays])
    actions = np.concatenate([play.actions for play in plays])
    np.testing.assert_allclose(probabilities.sum(1), 1.0)
    if deterministic:
        assert actions.tolist() == probabilities.argmax(1).tolist()
    else:
        # How much likelier the actions were than draws would be, over its standard deviation.
        mean = (probabilities**2).sum(1)
        spread = np.sqrt(((probabilities**3).sum(1) - mean**2).sum())
        surplus = (probabilities[np.arange(len(actions)), actions] - mean).sum()
        assert abs(surplus / spread) < 4


def test_the_best_the_median_and_the_worst_are_found_by_return() -> None:
    def captions(*returns: float) -> dict[int, str]:
        return best_median_and_worst([EpisodeResult(1, value, 9) for value in returns])

    assert captions(3, 9, 1, 5, 7) == {1: "best of 5", 3: "median of 5", 2: "worst of 5"}
    assert captions(3, 9, 1, 5) == {1: "best of 4", 0: "median of 4", 2: "worst of 4"}
    assert captions(0, 0, 0) == {0: "best of 3", 1: "median of 3", 2: "worst of 3"}
    assert captions(4, 6) == {1: "best of 2", 0: "median and worst of 2"}
    assert captions(4) == {0: "best and median and worst of 1"}


# The pictures


def test_a_picture_shows_the_frame_enlarged_and_a_bar_for_each_action() -> None:
    episode = an_episode([0.0, 1.0])
    picture = next(Artist("bc", "train").pictures(moments([episode])[1:]))
    assert picture.shape == (320, 540, 3)
    # Every pixel of the game is a square of 5 x 5.
    frame = picture[:, :320].reshape(64, 5, 64, 5, 3)
    assert (frame == episode.play.frames[1][:, None, :, None]).all()
    bars = picture[92:317, 412:496].reshape(15, 15, 84, 3)[:, 6]  # a line of pixels of each
    filled = {7: (42, BLUE), 0: (21, GREY), 14: (21, GREY)}
    for action, bar in enumerate(bars):
        width, colour = filled.get(action, (0, TRACK))
        assert [tuple(pixel) for pixel in bar] == [colour] * width + [TRACK] * (84 - width)


def test_the_panel_tells_level_step_return_and_the_chosen_action(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts: list[str] = []
    letters = recording_pictures._lettering

    def lettering(text: str, bold: bool = False, size: int = 12) -> np.ndarray:
        texts.append(text)
        return letters(text, bold, size)

    monkeypatch.setattr(recording_pictures, "_lettering", lettering)
    pictures = Artist("coinrun, bc", "validation").pictures(moments([an_episode([0.5, -2, 10])]))
    assert len(list(pictures)) == 4
    assert texts[:3] == ["validation level 7", "coinrun, bc", "best of 3"]
    first = [place for place, words in enumerate(texts) if words.startswith("step")]
    states = ("0 of 3   return 0", "1 of 3   return 0.5", "2 of 3   return -1.5")
    expected = [f"step {state}" for state in (*states, "3 of 3   return 8.5")]
    assert ["".join(texts[place : place + 2]) for place in first] == expected
    assert texts[-2:] == ["right", "50%"]


def test_the_chosen_action_and_its_probability_are_written_in_the_accent() -> None:
    episode = an_episode([0.0])
    episode.play.actions[0] = 14  # its probability is a quarter
    artist = Artist("bc", "train")
    panel = next(iter(artist.with_panels(moments([episode]))))[1]
    rows = panel[92:317].reshape(15, 15, 220)
    accent = (artist.colours == BLUE).all(1).argmax()
    shades = range(accent, accent + 4)
    inked = [np.isin(row[:, :90], shades).any() for row in rows]
    assert inked == [False] * 14 + [True]
    assert np.isin(rows[14][:, 180:], shades).any()
    assert not np.isin(rows[:14][..., 180:], shades).any()


@pytest.mark.parametrize("text", ["Wave, level 17: jump!", "", "100%"])
def test_lettering_is_what_pillow_writes_in_few_shades(text: str) -> None:
    lettering = recording_pictures._lettering(text, size=11)
    font = recording_pictures._font(False, 11)
    image = Image.new("L", lettering.shape[::-1], 255)
    ImageDraw.Draw(image).text((0, 0), text, 0, font)
    apart = lettering.astype(int) * 255 // 4 - np.asarray(image, int)
    assert np.abs(apart).max() <= 32
    assert bool((lettering < 4).any()) == bool(text)


def test_words_longer_than_the_panel_are_cut_off() -> None:
    picture = next(
        Artist("a player with a long name " * 9, "test").pictures(moments([an_episode([1.0])]))
    )
    assert picture.shape == (HEIGHT, WIDTH, 3)


def test_the_end_of_the_longest_episode_is_told_whole() -> None:
    """The bold letters of an end are wider than others: the line may not run out of the panel."""
    episode = an_episode([12.5] + [0.01] * 999)
    _, end = next(Artist("bc", "test").with_panels(moments([episode])[-1:]))
    line = end[60:76, 14:]
    inked = np.flatnonzero((line != line[0, 0]).any(0))
    words = f"step 1000 of 1000   return {sum(episode.play.rewards):.4g}"
    width = recording_pictures._font(False, 12).getlength(words)
    assert width - 4 < inked[-1] < 220 - 14 - 1


def test_each_episode_has_a_background_of_its_own() -> None:
    episodes = [an_episode([1.0], level_seed=level) for level in (7, 8)]
    first, _, second, _ = Artist("bc", "test").pictures(moments(episodes))
    assert (first[:22, PLAY:] != second[:22, PLAY:]).any()
    assert (first[:, :PLAY] == second[:, :PLAY]).all()


# The files


def test_a_gif_holds_every_step_and_dwells_on_the_end_of_each_episode() -> None:
    episodes = [an_episode([0.0] * 4), an_episode([1.0] * 2, seed=1)]
    artist = Artist("bc", "train")
    video = encode_gif(artist, episodes)
    assert video.every == 1
    gif = Image.open(io.BytesIO(video.data))
    assert (gif.format, gif.size, gif.n_frames) == ("GIF", (WIDTH, HEIGHT), 8)
    assert gif.info["loop"] == 0  # for ever
    for number, picture in enumerate(artist.pictures(moments(episodes))):
        gif.seek(number)
        assert gif.info["duration"] == (70 * FINAL_PICTURES if number in (4, 7) else 70)
        apart = np.abs(np.asarray(gif.convert("RGB"), int) - picture.astype(int))
        assert apart.mean() < 12  # 128 colours for frames of random ones
        assert apart[:, PLAY:].mean() < 0.3
        assert apart[92:317, 412:496].max() == 0  # bars are as they were


def test_a_gif_that_would_be_large_leaves_out_steps() -> None:
    episodes = [an_episode([1.0] * 41), an_episode([1.0] * 3, seed=1)]
    artist = Artist("bc", "train")
    whole = encode_gif(artist, episodes)
    small = encode_gif(artist, episodes, largest=len(whole.data) // 4)
    assert len(small.data) <= len(whole.data) // 4
    assert small.every > 4
    shown = [(m.step, m.over) for m in moments(episodes, 20)]
    assert shown == [(0, 0), (20, 0), (40, 0), (40, 1), (0, 0), (2, 1)]
    assert Image.open(io.BytesIO(small.data)).n_frames == len(moments(episodes, small.every))


def test_no_step_is_left_out_of_a_gif_that_has_room_for_all() -> None:
    episode = an_episode([0.0] * 60)
    # A game in which hardly anything moves: how much a picture takes is told by its neighbours.
    for step, frame in enumerate(episode.play.frames):
        frame[:] = episode.play.frames[0]
        frame[step % 64] = 255
    artist = Artist("bc", "train")
    size = len(encode_gif(artist, [episode]).data)
    assert encode_gif(artist, [episode], largest=size + size // 50).every == 1


def test_an_mp4_holds_every_step(tmp_path: Path) -> None:
    episodes = [an_episode([0.0] * 4), an_episode([1.0] * 2, seed=1)]
    artist = Artist("bc", "train")
    path = tmp_path / "play.mp4"
    path.write_bytes(encode_mp4(artist, episodes).data)
    command = [find_ffmpeg(), "-loglevel", "error", "-i", str(path), "-f", "rawvideo"]
    raw = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    frames = np.frombuffer(raw.stdout, np.uint8).reshape(-1, HEIGHT, WIDTH, 3).astype(int)
    expected = [
        picture.astype(int)
        for moment, picture in zip(
            moments(episodes), artist.pictures(moments(episodes)), strict=True
        )
        for _ in range(FINAL_PICTURES if moment.over else 1)
    ]
    assert len(frames) == len(expected) == 4 + 2 + 2 * FINAL_PICTURES
    for frame, picture in zip(frames, expected, strict=True):
        assert np.abs(frame - picture).mean() < 8
