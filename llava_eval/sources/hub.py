"""Reads a task's samples from a data set on the Hugging Face Hub.

`datasets` says which files make up a split; what their rows mean stands in `hub_rows`. All is read
at one commit, which the manifest names, and what was read once is there without network too. The
sets are public: nobody has to log in.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llava_eval.errors import DataError
from llava_eval.records import Opened, Origin, Sample
from llava_eval.sources.files import refuse
from llava_eval.sources.hub_rows import HUB_READERS, HubReader
from llava_eval.sources.parquet import ParquetTable, Picture, Row
from llava_eval.sources.seed import told_apart
from llava_eval.spec import HubSource

if TYPE_CHECKING:
    from datasets import DatasetBuilder

_PART = re.compile(r".+-\d{5}-of-(?P<total>\d{5})\b.*\.parquet")
_NETWORK_DOWN = "the Hub cannot be reached (offline, or HF_HUB_OFFLINE is set)"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Located:
    """A data set at one commit."""

    dataset: str
    commit: str | None
    """None for a folder that is not the Hub's."""
    folder: Path
    """What this machine has of it."""


def read_hub(source: HubSource) -> Opened:
    """All samples of a split; a picture is read when it is opened.

    Raises:
        DataError: the Hub does not give the data set, or it is not made up as expected.
    """
    reader = HUB_READERS[source.reader]
    located = _locate(source)
    rows, load = _read_rows(located, source, reader)
    samples, faults = [], []
    for number, row in enumerate(rows):
        try:
            sample = reader.to_sample(row, number)
        except ValueError as error:
            faults.append(f"{located.dataset}: row {number}: {error}")
        else:
            images = tuple(replace(image, load=load(row, number)) for image in sample.images)
            samples.append(replace(sample, images=images))
    refuse(faults)
    if reader.repeats_ids:
        samples = list(told_apart(samples))
    if located.commit is not None and source.revision is None:
        _logger.warning(
            "%s: no revision is pinned; this is commit %s", located.dataset, located.commit
        )
    return Opened(samples=_share_pictures(samples), origin=_origin(located, source))


def _read_rows(
    located: _Located, source: HubSource, reader: HubReader
) -> tuple[list[Row], Callable[[Row, int], Picture | None]]:
    """The rows that say what is asked, and what finds the picture of one of them."""
    if source.pictures_config is None:
        table = _table(located, source.config, source.split, pictures="image")
        rows = table.read(reader.columns, optional=reader.optional)
        return rows, lambda row, number: Picture(table=table, row=number)
    table = _table(located, source.config, source.split, pictures=None)
    rows = table.read(reader.columns, optional=reader.optional)
    pictures = _table(located, source.pictures_config, source.split, pictures="image")
    by_id = {
        row["id"]: Picture(table=pictures, row=number)
        for number, row in enumerate(pictures.read(("id",)))
    }
    return rows, lambda row, number: by_id.get(row["imageId"])


def _share_pictures(samples: Sequence[Sample]) -> list[Sample]:
    """A row about a picture carries a copy of it; every sample of a cluster gets the first."""
    first = {sample.cluster: sample.images for sample in reversed(samples)}
    return [
        replace(
            sample,
            images=tuple(
                replace(image, load=shared.load)
                for image, shared in zip(sample.images, first[sample.cluster], strict=True)
            ),
        )
        for sample in samples
    ]


def _origin(located: _Located, source: HubSource) -> Origin:
    if located.commit is not None:
        commits, files = {located.dataset: located.commit}, []
    else:
        commits, files = {}, sorted(located.folder.rglob("*.parquet"))
    names = tuple(str(path.relative_to(located.folder)) for path in files)
    return Origin(source="hub", root=located.folder, files=names, commits=commits, note=source.note)


def _locate(source: HubSource) -> _Located:
    """Finds the data set by its name, or by one that it had before.

    The card is what every data set has; the folder it comes to lie in is named for the commit.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if Path(source.dataset).is_dir():
        return _Located(dataset=source.dataset, commit=None, folder=Path(source.dataset))
    faults: list[str] = []
    for name in (source.dataset, *source.aliases):
        try:
            card = Path(
                hf_hub_download(name, "README.md", repo_type="dataset", revision=source.revision)
            )
        except LocalEntryNotFoundError:
            faults.append(f"{name} is not in the local Hub cache, and {_NETWORK_DOWN}")
        except GatedRepoError:
            faults.append(f"{name} is gated: accept its terms on its page, then `hf auth login`")
        except RevisionNotFoundError:
            faults.append(f"{name} has no revision {source.revision}")
        except RepositoryNotFoundError:
            faults.append(f"the Hub has no data set {name}, or it is private")
        except EntryNotFoundError:
            faults.append(f"{name} has no README.md, so it is no data set as expected")
        except HfHubHTTPError as error:
            faults.append(f"the Hub does not give {name}: {_first_line(error)}")
        else:
            return _Located(dataset=name, commit=card.parent.name, folder=card.parent)
    raise DataError("; ".join(faults))


def _table(
    located: _Located, config: str | None, split: str, *, pictures: str | None
) -> ParquetTable:
    """The files of one split."""
    named = f"{located.dataset} ({config})" if config else located.dataset
    splits = _splits(located, config)
    if split not in splits:
        raise DataError(f"{named}: no split {split}; has {', '.join(splits) or 'none'}")
    addresses = splits[split]
    if other := [address for address in addresses if not address.endswith(".parquet")]:
        raise DataError(f"{named}: expected parquet files, got {other[0]}")
    for address in addresses:
        part = _PART.fullmatch(address)
        if part and int(part["total"]) != len(addresses):
            raise DataError(
                f"{named}: {len(addresses)} of {int(part['total'])} files of {split} are in the "
                f"local Hub cache, and {_NETWORK_DOWN}"
            )
    return ParquetTable(f"{named} {split}", addresses, pictures=pictures)


def _splits(located: _Located, config: str | None) -> dict[str, list[str]]:
    """Split -> its files: on the Hub, or those on this machine where the Hub is out of reach."""
    from datasets import load_dataset_builder

    try:
        try:
            builder = load_dataset_builder(located.dataset, name=config, revision=located.commit)
        except ConnectionError:
            builder = _builder_offline(located, config)
    # Of `datasets`' errors, no such config is the one, no data files the other.
    except (ValueError, FileNotFoundError) as error:
        raise DataError(f"{located.dataset}: {_first_line(error)}") from error
    return {str(split): list(files) for split, files in (builder.config.data_files or {}).items()}


def _builder_offline(located: _Located, config: str | None) -> "DatasetBuilder":
    from datasets import load_dataset_builder

    try:
        return load_dataset_builder(str(located.folder), name=config)
    except FileNotFoundError as error:
        raise DataError(
            f"{located.dataset}: its files are not in the local Hub cache, and {_NETWORK_DOWN}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
