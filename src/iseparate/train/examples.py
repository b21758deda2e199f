"""Which songs a training hears and is judged by, and the excerpts and batches it takes of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from iseparate.data.augment import AUGMENTATIONS, BATCH_AUGMENTATIONS, Augmentation
from iseparate.data.excerpts import Excerpts, RandomSampling, Sampling, SequentialSampling, Silence
from iseparate.data.loader import ExcerptLoader
from iseparate.data.open import Dataset
from iseparate.data.track import Track
from iseparate.errors import UsageError
from iseparate.models._base import SeparationModel
from iseparate.train.module import sums_of
from iseparate.train.processes import Processes
from iseparate.train.recipe import Recipe

HELD_OUT_SHARE = 0.1
"""Of the songs of a data set without a subset for validation."""
MOST_WORKERS = 4
_APART = ("remix", "shift")
"""Augmentations after which the stems of an example are no longer of one song and time."""


def choose_songs(
    dataset: Dataset, recipe: Recipe, network: SeparationModel, report: Callable[[str], None] = lambda _: None
) -> tuple[list[Track], list[Track], tuple[str, ...]]:
    """The songs to train on, those to judge by, and the stems that are heard in both; UsageError."""
    train, valid = split(dataset, recipe, report)
    heard = heard_stems(dataset.stems, dataset.spec, recipe, network)
    return as_heard(train, recipe, heard), as_heard(valid, recipe, heard), heard


def split(
    dataset: Dataset, recipe: Recipe, report: Callable[[str], None] = lambda _: None
) -> tuple[list[Track], list[Track]]:
    """The songs to train on, and those to judge by.

    By the subsets that the recipe names. Where the data has none for validation, every tenth song is held out, unless
    the recipe wants none; where it has no subsets at all, all others are trained on.

    Raises:
        UsageError: no songs to train on, or data that do not allow what the recipe does with them.
    """
    tracks = [track for track in dataset.tracks if track.clips]
    wanted = set(recipe.data.subset.split("+"))
    train = [t for t in tracks if t.subset in wanted]
    if not any(t.subset for t in tracks):
        train = tracks
    songs = [t for t in train if t.is_song]
    judged = recipe.data.validation_subset
    valid = [t for t in tracks if t.subset == judged and t.is_song] if judged is not None else []
    if judged is not None and not valid and len(songs) > 1:
        every = max(2, round(1 / HELD_OUT_SHARE)) if len(songs) >= 1 / HELD_OUT_SHARE else len(songs)
        valid = songs[every - 1 :: every]
        report(
            f"the data has no songs for validation, so {len(valid)} of {len(songs)} are held out "
            f"({valid[0].title}{', …' if len(valid) > 1 else ''})"
        )
    chosen = {t.title for t in valid}
    train = [t for t in train if t.title not in chosen]
    if not train:
        raise UsageError(
            f"{dataset.spec} has no songs to train on: the recipe asks for the subset {recipe.data.subset!r}; choose "
            "other data, or --set data.subset"
        )
    _check_mixing(dataset, recipe)
    return train, valid


def _check_mixing(dataset: Dataset, recipe: Recipe) -> None:
    share = recipe.data.mix_songs
    if dataset.mixing == "random" and share < 1:
        raise UsageError(
            f"{dataset.spec} holds stems that belong to no mixtures, and the recipe mixes songs for {share:.0%} of the "
            "examples only; --set data.mix_songs=1"
        )
    parts = (*recipe.data.augment, *recipe.data.batch_augment)
    apart = [name for name in _APART if any(part.name == name for part in parts)]
    if dataset.mixing == "aligned" and (share > 0 or apart):
        raise UsageError(
            f"{dataset.spec} is made of stems that must stay together, and the recipe moves them apart; --set "
            "data.mix_songs=0" + (f" and leave {' and '.join(apart)} out" if apart else "")
        )


def heard_stems(stems: Sequence[str], spec: str, recipe: Recipe, network: SeparationModel) -> tuple[str, ...]:
    """The stems that make up the mixture: those that the network is trained for, and those that are only heard.

    Args:
        stems: of the data.
        spec: what the data are called.
        recipe, network: what is trained.

    Raises:
        UsageError: the data lack one of them, or one is both.
    """
    trained, also = network.trained_stems, recipe.data.also_heard
    parts = sums_of(trained, stems)
    if also is None:
        return tuple(stems)
    targets = {stems[part] for stem in parts for part in stem}
    for stem in also:
        if stem not in stems:
            raise UsageError(
                f"data.also_heard names {stem}, which {spec} has not: its stems are "
                f"{', '.join(stems)}; choose other data, or leave it out of data.also_heard"
            )
        if stem in targets:
            raise UsageError(
                f"data.also_heard names {stem}, which is part of what the network is trained for "
                f"({', '.join(trained)}); leave it out"
            )
    return tuple(stem for stem in stems if stem in targets or stem in also)


def as_heard(songs: Sequence[Track], recipe: Recipe, heard: Sequence[str]) -> list[Track]:
    """The songs as if they had been recorded with the stems that are heard, where a recipe says which."""
    if recipe.data.also_heard is None:
        return list(songs)
    # Without a mixture of its own a song's mixture is the sum of its stems, for whoever reads or judges it.
    shrunk = [
        replace(song, clips={stem: clips for stem, clips in song.clips.items() if stem in heard}, mixture_clips=())
        for song in songs
    ]
    for song in shrunk:
        lacking = [stem for stem in recipe.data.also_heard if stem not in song.clips]
        if song.is_song and lacking:
            raise UsageError(
                f"{song.title} has no {lacking[0]}, of which mixtures are made (data.also_heard); leave the song out, "
                "or give it that stem"
            )
    return [song for song in shrunk if song.clips]


def excerpts_of(
    recipe: Recipe, songs: Sequence[Track], network: SeparationModel, heard: Sequence[str], training: bool
) -> Excerpts:
    """The examples that a recipe describes; of validation songs all there are, one after the other, unchanged."""
    data, rate = recipe.data, network.spec.sample_rate
    samples = data.excerpt_length(rate)
    if not training:
        return Excerpts(
            songs,
            heard,
            samples,
            rate,
            network.spec.channels,
            SequentialSampling(samples),
            with_mixture=data.own_mixture,
            seed=recipe.loop.seed,
        )
    sampling: Sampling
    if data.sampling == "sequential":
        stride = max(1, round(data.stride_seconds * rate)) if data.stride_seconds else samples
        sampling = SequentialSampling(stride, data.repeat)
    else:
        sampling = RandomSampling(data.excerpts_per_song or 1, data.excerpts_per_epoch)
    augmentations: list[Augmentation] = [AUGMENTATIONS[part.name](**part.arguments) for part in data.augment]
    later: list[Augmentation] = [BATCH_AUGMENTATIONS[part.name](**part.arguments) for part in data.batch_augment]
    return Excerpts(
        songs,
        heard,
        samples,
        rate,
        network.spec.channels,
        sampling,
        mix_songs=data.mix_songs,
        augmentations=augmentations,
        later=later,
        silence=Silence(**data.silence.model_dump()) if data.silence else None,
        may_be_silent=data.also_heard or (),
        with_mixture=data.own_mixture,
        seed=recipe.loop.seed,
    )


def loaders(
    recipe: Recipe,
    network: SeparationModel,
    heard: Sequence[str],
    train_songs: Sequence[Track],
    valid_songs: Sequence[Track],
    processes: Processes,
    workers: int | None,
    pin_memory: bool,
    report: Callable[[str], None],
) -> tuple[ExcerptLoader, ExcerptLoader | None]:
    """Batches to train on, and to validate with; this process's rows of them."""
    world, rank = processes.world, processes.rank
    if recipe.loop.batch_size % world:
        raise UsageError(
            f"a batch of {recipe.loop.batch_size} cannot be shared among {world} processes; choose a loop.batch_size "
            "that they divide"
        )
    batch = recipe.loop.batch_size // world
    for part in recipe.data.batch_augment:
        group = int(part.arguments.get("group", 4))
        if part.name == "remix" and batch % group:
            raise UsageError(
                f"remix works in groups of {group}, into which a batch of {batch} in each process cannot be cut; "
                "choose another loop.batch_size, or another group"
            )
    train = ExcerptLoader(
        excerpts_of(recipe, train_songs, network, heard, True),
        batch,
        workers=_default_workers(processes) if workers is None else workers,
        rank=rank,
        world=world,
        pin_memory=pin_memory,
        report=report,
    )
    if not valid_songs:
        return train, None
    valid = excerpts_of(recipe, valid_songs, network, heard, False)
    return train, ExcerptLoader(valid, batch, rank=rank, world=world, shuffle=False, drop_last=False, report=report)


def _default_workers(processes: Processes) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, max(0, cores // processes.local - 1))
