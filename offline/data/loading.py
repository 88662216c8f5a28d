"""From the flags of a command to the view its agent learns from."""

from __future__ import annotations

import argparse
import logging
from typing import NamedTuple

import torch

from common.seeding import derive_seed
from offline.data.built_in import built_in_dataset
from offline.data.levels import LevelCoverage, cover_levels, levels_outside
from offline.data.packing import distinct_folders, open_game
from offline.data.placement import place_frames
from offline.data.provenance import drawn_as_installed, drawn_differently
from offline.data.store import DatasetSummary, PackedStore, Selection, describe, select_episodes
from offline.data.views import TransitionView, ViewKind, WindowView, make_view

logger = logging.getLogger(__name__)


class LoadedData(NamedTuple):
    """The view, and what it was made of."""

    view: TransitionView | WindowView
    summary: DatasetSummary
    levels: LevelCoverage
    sources: list[str]
    placement: str


def open_stores(settings: argparse.Namespace) -> list[PackedStore]:
    """The packed data of the game, one store per dataset folder, packed first where needed.

    Raises UsageError for folders that do not exist, ToolkitError for broken files.
    """
    folders = distinct_folders(settings.dataset) or [
        built_in_dataset(settings.env_name, settings.distribution_mode, settings.num_levels)
    ]
    stores = [
        open_game(
            folder,
            settings.env_name,
            settings.pack_dir or None,
            skip_bad_episodes=settings.skip_bad_episodes,
        )
        for folder in folders
    ]
    for store in stores:
        if drawn_as_installed(store, settings.env_name, settings.distribution_mode) is False:
            build = (store.manifest["procgen"] or {}).get("build")
            logger.warning("%s", drawn_differently(str(store.path), settings.env_name, build))
    return stores


def open_selection(settings: argparse.Namespace) -> Selection:
    """The episodes that the data flags choose.

    Raises what `open_stores` does, and UsageError for choices that leave nothing.
    """
    return select_episodes(
        open_stores(settings),
        dataset_size=settings.dataset_size,
        percentile=settings.percentile,
        episode_order=settings.episode_order,
        levels=settings.levels or None,
        seed=derive_seed(settings.seed, "episodes"),
    )


def load_data(settings: argparse.Namespace, kind: ViewKind, device: torch.device) -> LoadedData:
    """Open, select and place the data of a training command; one log line says what was taken."""
    selection = open_selection(settings)
    summary = describe(selection)
    levels = cover_levels(selection.episodes["level_seed"], settings.num_levels)
    # A run on one level is measured on that level.
    if levels.episodes_outside and settings.level is None:
        logger.warning("%s", levels_outside(levels, settings.num_levels))
    frames = place_frames(
        selection,
        device,
        settings.data_device,
        settings.memory_budget_gb or None,
    )
    logger.info(
        "data: %d episodes, %d transitions, %d levels, mean return %.2f; %s",
        summary.episodes,
        summary.transitions,
        summary.levels,
        summary.mean_return,
        frames.description,
    )
    view = make_view(kind, selection, frames, settings.dt_context_length, device)
    if frames.device.type == "cuda":

        def leave_gpu() -> str:
            elsewhere = place_frames(
                selection,
                device,
                settings.data_device,
                settings.memory_budget_gb or None,
                gpu_is_full=True,
            )
            view.place(elsewhere)
            return elsewhere.description

        view.leave_gpu = leave_gpu
    return LoadedData(
        view, summary, levels, [str(store.path) for store in selection.stores], frames.description
    )
